"""A model as others get it: its card and its folder."""
