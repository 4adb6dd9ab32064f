"""`d2s publish space`: the page of `d2s serve` as a Space of the Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from pipelines.hub.names import check_licence, check_repo
from pipelines.hub.options import publishing_options, say, share

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(
    epilog="A model of the Hub is named in the Space, one of a folder copied into it. Without "
    "--images-license no picture is published, without --dense and --captions no text but those "
    "that are searched."
)
@click.option("--index", "paths", required=True, multiple=True, type=FILE,
              help="What `d2s embed` wrote; may be given again, for images and texts.")  # fmt: skip
@click.option("--model", help="The model, a folder or OWNER/NAME.  [default: the index's]")
@click.option("--license", "licence",
              help="Licence of the Space, as the Hub names it: apache-2.0. Required.")  # fmt: skip
@click.option("--images-license", "images_licence",
              help="Licence of the images, if it lets small pictures of them be shared; then they "
              "are.")  # fmt: skip
@click.option("--pictures", type=FOLDER,
              help="Where the images are now.  [default: as the index recorded]")  # fmt: skip
@click.option("--dense", type=FOLDER, help="Dense text to share: a captioning run.")
@click.option("--captions", type=click.Path(path_type=Path), help="Sparse captions to share.")
@click.option("--dataset", "datasets", multiple=True, metavar="OWNER/NAME",
              help="Data set of the Hub that is searched; may be given again.")  # fmt: skip
@click.option("--top", type=click.IntRange(1, 100), default=12, show_default=True,
              help="Hits of each index.")  # fmt: skip
@publishing_options
def space(
    paths: tuple[Path, ...],
    model: str | None,
    licence: str | None,
    images_licence: str | None,
    pictures: Path | None,
    dense: Path | None,
    captions: Path | None,
    datasets: tuple[str, ...],
    top: int,
    **options: Any,
) -> None:
    """Publish a page that searches the indexes by text or by photo.

    \b
    Examples:
      d2s publish space --index coco.parquet --repo me/x --license mit --to-dir x
      d2s publish space --index coco.parquet --repo me/x --license mit
    """
    if pictures is not None and images_licence is None:
        raise click.UsageError("--pictures goes with --images-license")
    licence = check_licence(licence, of="the Space may be used")
    if images_licence is not None:
        check_licence(images_licence, of="the images may be shared")
    from pipelines.hub.space.tree import make_space_tree

    with tempfile.TemporaryDirectory(prefix="d2s-space-") as work:
        tree = make_space_tree(
            paths,
            Path(work),
            repo=options["repo"],
            model=model,
            licence=licence,
            images_licence=images_licence,
            images=pictures,
            dense=dense,
            captions=captions,
            datasets=[check_repo(name) for name in datasets],
            top=top,
            say=say,
        )
        share(tree, kind="space", sdk="gradio", **options)
