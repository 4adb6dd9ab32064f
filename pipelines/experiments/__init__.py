"""Experiments whose results stand in docs/: each a module that anyone can run again."""
