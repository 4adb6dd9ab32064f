"""Experiments with results in docs/: each is a module that anyone can run again."""
