"""A finished captioning run written in the formats that others read."""
