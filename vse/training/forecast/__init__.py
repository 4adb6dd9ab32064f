"""Estimates before a training run: memory, arithmetic, disk, missing files."""
