"""The doors: one small file per `d2s` command."""
