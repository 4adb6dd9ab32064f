"""A Space: the page of `d2s serve` with its model, indexes and, optionally, images and texts."""
