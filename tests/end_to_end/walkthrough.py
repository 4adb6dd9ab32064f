"""docs/walkthrough.ipynb: its commands, and a run of it beside a Hub stand-in."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.documents import ROOT
from tests.hub.server import HubServer
from tests.hub.state import User
from tests.waiting import HANG_SECONDS

NOTEBOOK = ROOT / "docs/walkthrough.ipynb"
TOKEN = "hf_secretOfTheWalk"


def read_notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def read_commands() -> list[str]:
    """The `d2s` lines of its cells, in order."""
    sources = [cell.source for cell in read_notebook().cells if cell.cell_type == "code"]
    return [line for source in sources for line in re.findall(r"^d2s .*$", source, re.MULTILINE)]


def run_notebook(
    server: HubServer, folder: Path, home: Path, sizes: Mapping[str, int]
) -> nbformat.NotebookNode:
    """Every cell in order, in `folder`; returns it with its outputs.

    Raises:
        CellExecutionError: a cell, or a command in one, fails.
    """
    server.hub.users = {TOKEN: User("me")}
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        **os.environ,
        **server.environment(home / "hf", token=TOKEN),
        **{name: str(size) for name, size in sizes.items()},
        # Jupyter keeps files of its own.
        **{name: str(home / name) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR")},
        "PATH": programs,
    }
    notebook = read_notebook()
    client = NotebookClient(
        notebook,
        timeout=int(HANG_SECONDS),
        startup_timeout=int(HANG_SECONDS),
        resources={"metadata": {"path": str(folder)}},
        kernel_name="python3",
    )
    client.execute(env=environment)
    return notebook


def read_output(notebook: nbformat.NotebookNode) -> str:
    """What all cells printed, to both channels."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    return "\n".join(out.get("text", "") for out in outputs)
