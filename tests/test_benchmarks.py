"""What a benchmark writes names the command as it was typed, not the one with its defaults."""

import json
from pathlib import Path

import pytest

from benchmarks.documents import write_document


def test_a_document_names_its_own_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x/rate.py", "--rounds", "3", "--docs", "docs/benchmarks"])
    write_document(tmp_path / "docs", "rate", title="Rate", text="| 1 |\n", figures={"rate": 1})
    command = "python -m benchmarks.rate --rounds 3 --docs docs/benchmarks"
    assert (
        tmp_path / "docs/rate.md"
    ).read_text() == f"# Rate\n\nWritten by `{command}`.\n\n| 1 |\n"
    assert json.loads((tmp_path / "docs/rate.json").read_text()) == {"rate": 1}
