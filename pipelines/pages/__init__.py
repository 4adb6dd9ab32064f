"""Static HTML pages."""
