"""Checkpoints of the code released with the paper (repository liuyyy111/d2s-vse)."""
