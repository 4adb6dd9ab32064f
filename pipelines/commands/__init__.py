"""One file per `d2s` command, named after it."""
