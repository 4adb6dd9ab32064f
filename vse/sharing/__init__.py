"""A shared model: its card and its folder."""
