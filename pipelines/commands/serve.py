"""`d2s serve`: a page of this machine to search an index by text or by photo."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.console.command_line import say

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(
    epilog="Ctrl-C ends it, with exit code 0. Nothing but the page is served: no file of this "
    "machine, and of the images small pictures alone."
)
@click.option("--index", "paths", required=True, multiple=True, type=FILE,
              help="What `d2s embed` wrote; may be given again, for images and texts.")  # fmt: skip
@click.option("--model", help="The model.  [default: the one that the index names]")
@click.option("--pictures", type=FOLDER,
              help="Where the images are now.  [default: as the index recorded]")  # fmt: skip
@click.option("--dense", type=FOLDER,
              help="Dense text to compare with: a captioning run.  [default: the images' own, "
              "if it is the only one under dense/]")  # fmt: skip
@click.option("--captions", type=click.Path(path_type=Path),
              help="Sparse captions to compare with.  [default: the one file in the image folder "
              "or beside it]")  # fmt: skip
@click.option("--top", type=click.IntRange(1, 100), default=12, show_default=True,
              help="Hits of each index.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Where to listen; the default is reached from this machine alone.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=7860, show_default=True,
              help="0: any that is free.")  # fmt: skip
@click.option("--device", help="As torch calls it.  [default: the GPU if there is one]")
def serve(
    paths: tuple[Path, ...],
    model: str | None,
    pictures: Path | None,
    dense: Path | None,
    captions: Path | None,
    top: int,
    host: str,
    port: int,
    device: str | None,
) -> None:
    """Open a page to search: type a text or drop a photo, see what is nearest.

    A chosen hit shows its dense text and its sparse captions side by side, with the similarity of
    each to the image and to the query.

    \b
    Examples:
      d2s serve --index coco.parquet
      d2s serve --index coco.parquet --index captions.parquet --port 8000
    """
    from pipelines.search_app.address import is_local, open_socket

    # Before the model is loaded: a port that is taken, or no Gradio, is said at once.
    opened = open_socket(host, port)
    if not is_local(host):
        say(f"warning   whoever reaches {host} may search, and see pictures and texts")

    from pipelines.search_app.opening import open_collection
    from pipelines.search_app.page import build_page
    from pipelines.search_app.server import run_server

    collection = open_collection(
        paths,
        model=model,
        images=pictures,
        dense=dense,
        captions=captions,
        device=device,
        say=say,
    )
    page = build_page(collection, top=top, title="D2S search")
    run_server(page, opened, host=host, on_ready=lambda address: click.echo(f"serving   {address}"))
    say("serve     stopped")
