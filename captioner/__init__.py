"""Images in, dense text out."""
