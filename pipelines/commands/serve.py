"""`d2s serve`: a local page for searching an index by text or by photo."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from pipelines.console.command_line import print_text, say
from pipelines.console.options import shared


@click.command(
    epilog="Press Ctrl-C to stop (exit code 0). Only the page is served: no files of this machine, "
    "and thumbnails instead of the images."
)
@shared("index", "model", "images", "dense", "captions", "top")
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Address to listen on; only this machine can reach the default.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=7860, show_default=True,
              help="Port to listen on; 0 takes a free one.")  # fmt: skip
@click.option("--open", "open_browser", is_flag=True, help="Open the page in the browser.")
@shared("device")
def serve(
    paths: tuple[Path, ...],
    model: str | None,
    images: Path | None,
    dense: Path | None,
    captions: Path | None,
    top: int,
    host: str,
    port: int,
    open_browser: bool,
    device: str | None,
) -> None:
    """Serve a web page to search an index by text or by photo.

    Select a hit to see its dense text and sparse captions side by side, each with its similarity to
    the image and to the query.

    \b
    Examples:
      d2s serve --index coco.parquet --open
      d2s serve --index coco.parquet --index captions.parquet --port 8000
    """
    from pipelines.search_app.address import is_local, open_socket

    # Before the model is loaded, so that a used port or missing Gradio is reported at once.
    opened = open_socket(host, port)
    if not is_local(host):
        say(f"warning   everyone who can reach {host} can search and see the images and texts")

    from pipelines.search_app.opening import open_collection
    from pipelines.search_app.page import build_page
    from pipelines.search_app.server import run_server

    collection = open_collection(
        paths,
        model=model,
        images=images,
        dense=dense,
        captions=captions,
        device=device,
        say=say,
    )
    page = build_page(collection, top=top, title="D2S search")

    def follow(address: str) -> None:
        print_text(f"serving   {address}")
        if open_browser:
            webbrowser.open(address)

    run_server(page, opened, host=host, on_ready=follow)
    say("serve     stopped")
