"""Development tools: setup, locks, the README's figures, release checks."""
