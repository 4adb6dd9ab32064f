"""What `d2s evaluate --failures` shows: the queries that fail and what they find instead."""
