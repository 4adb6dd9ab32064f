"""One file a `d2s` command, named after it."""
