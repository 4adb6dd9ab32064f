"""The `d2s` command: a file a command, and what these share: pages, workflows, the Hub."""
