"""People's captions with their splits."""
