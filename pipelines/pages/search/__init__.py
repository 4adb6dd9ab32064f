"""What a search found, as records and as a page."""
