"""The `d2s` command: one file per command, and shared code for pages, workflows and the Hub."""
