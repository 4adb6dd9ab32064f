"""Records: what one is, where it comes from, how it is stored. Imports nothing of ours."""
