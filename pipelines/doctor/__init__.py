"""The checks of `d2s doctor`: each is a small function that returns one record."""
