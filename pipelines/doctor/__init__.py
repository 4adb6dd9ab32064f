"""What `d2s doctor` looks at: each check is a small function that returns one record."""
