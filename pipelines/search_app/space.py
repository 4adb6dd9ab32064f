"""The page in a Space on the Hub, where everything is next to app.py."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from data.errors import UserError
from pipelines.console.command_line import print_text
from pipelines.search_app.collection import Collection
from pipelines.search_app.pictures import NoThumbnails, PackedThumbnails, Thumbnails
from pipelines.search_app.texts import ImageTexts, read_packed_texts
from vse.search.index import Index
from vse.search.results import load_indexed_model

# The files next to app.py.
ABOUT, MODEL, TEXTS = "space.json", "model", "texts.parquet"
FORMAT = 1


def open_space(folder: Path) -> tuple[Collection, dict[str, Any]]:
    """Open the Space's collection and space.json: title, top, model, indexes and pictures.

    Raises:
        UserError: a file is missing, damaged, or has another version.
    """
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / ABOUT} cannot be read: {error}") from error
    if about.get("format") != FORMAT:
        raise UserError(f"{folder / ABOUT} is of another version of d2s: publish the Space again")
    indexes = [Index(folder / entry["file"]) for entry in about["indexes"]]
    pictures: dict[int, Thumbnails] = {
        number: PackedThumbnails(folder / entry["pictures"])
        if entry["pictures"]
        else NoThumbnails()
        for number, entry in enumerate(about["indexes"])
        if indexes[number].info.kind == "images"
    }
    texts = folder / TEXTS
    collection = Collection(
        load_indexed_model(indexes, str(_find_model(folder, about["model"]))),
        indexes,
        titles=[entry["title"] for entry in about["indexes"]],
        pictures=pictures,
        texts=read_packed_texts(texts) if texts.is_file() else ImageTexts(),
        places=[entry["place"] for entry in about["indexes"]],
    )
    return collection, about


def serve_space(folder: Path) -> None:
    """Serve the page at the port that the Hub expects, until a signal ends it."""
    from pipelines.search_app.address import open_socket
    from pipelines.search_app.page import build_page
    from pipelines.search_app.server import run_server

    host = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0")
    opened = open_socket(host, int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    collection, about = open_space(folder)
    page = build_page(collection, top=about["top"], title=about["title"])
    run_server(page, opened, host=host, on_ready=lambda address: print_text(f"serving {address}"))


def _find_model(folder: Path, model: dict[str, Any]) -> Path:
    """The model next to app.py, or on the Hub at the commit that created the indexes."""
    if model["name"] is None:
        return folder / MODEL
    from vse.runs.models import find_model

    return find_model(model["name"], revision=model["revision"])
