"""Where a benchmark's figures go: one JSON file for programs and one Markdown file for readers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from data.files.atomic import replace_whole, write_json


def write_document(
    folder: Path, name: str, *, title: str, text: str, figures: dict[str, Any]
) -> None:
    """`folder`/`name`.json and .md, the latter saying the command that wrote both."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", figures)
    command = shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]])
    with replace_whole(folder / f"{name}.md") as temporary:
        temporary.write_text(f"# {title}\n\nWritten by `{command}`.\n\n{text}", encoding="utf-8")
