"""Writing a benchmark's figures to a JSON file and a Markdown page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from data.files.atomic import replace_whole, write_json
from pipelines.workflow.origin import quote_command


def write_figures(
    folder: Path | None, name: str, *, title: str, text: str, figures: dict[str, Any]
) -> None:
    """Print the text; with a folder, write `name`.json and .md, which contain the command."""
    print(text)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", figures)
    command = quote_command(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]])
    with replace_whole(folder / f"{name}.md") as temporary:
        temporary.write_text(f"# {title}\n\nWritten by `{command}`.\n\n{text}", encoding="utf-8")
