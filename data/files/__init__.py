"""Atomic writes, temporary files, locks and hashes."""
