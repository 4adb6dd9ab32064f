"""The page of `d2s evaluate --failures`: failing queries and what they find instead."""
