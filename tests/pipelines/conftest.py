"""Fixtures of several rooms."""

from pathlib import Path

import pytest


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """dense/photos in the current folder: a finished captioning run with texts of every kind."""
    from tests.pipelines.captioned import write_example

    monkeypatch.chdir(tmp_path)
    return write_example(tmp_path)
