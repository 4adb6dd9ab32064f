"""What `d2s evaluate --errors` shows: the queries that fail and what they find instead."""
