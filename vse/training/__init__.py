"""Preparing, training, logging and resuming a run."""
