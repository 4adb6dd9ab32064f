"""Leases that end when a test says so, and not because the machine is busy."""

import contextlib
import os
from pathlib import Path

import pytest


def keep_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process no lease ends by itself, and ten times a second it is renewed and seen."""
    monkeypatch.setattr("captioner.store.leases.LEASE_SECONDS", 3600.0)
    monkeypatch.setattr("captioner.store.leases._RENEWALS", 36_000)
    monkeypatch.setattr("captioner.store.leases._LOOKS", 36_000)


def end_leases(folder: Path, *names: str) -> None:
    """As if they had not been renewed for long; by default all in the folder."""
    for name in names or os.listdir(folder):
        # Their owner may live, and have done the work meanwhile.
        with contextlib.suppress(FileNotFoundError):
            os.utime(folder / name, (0, 0))
