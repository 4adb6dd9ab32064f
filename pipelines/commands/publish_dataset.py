"""`d2s publish dataset`: a captioning run as a data set of the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipelines.hub.names import check_licence, check_repo
from pipelines.hub.options import publishing_options, say, share

_SHARE = click.FloatRange(0, 1)


@click.command(
    epilog="The card says what the run recorded: command, model, prompt, counts, examples."
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--license", help="Licence of the texts, as the Hub names it: cc-by-4.0. Required.")
@click.option("--source-dataset", "sources", multiple=True, metavar="OWNER/NAME",
              help="Data set of the Hub that the images are of; may be given again.")  # fmt: skip
@click.option("--max-errors", type=_SHARE, default=0.01, show_default=True,
              help="Refuse if a larger share of the rows has no text.")  # fmt: skip
@click.option("--max-flagged", type=_SHARE, default=0.25, show_default=True,
              help="Refuse if a larger share of the texts is flagged.")  # fmt: skip
@publishing_options
def dataset(
    directory: Path,
    license: str | None,
    sources: tuple[str, ...],
    max_errors: float,
    max_flagged: float,
    **options: Any,
) -> None:
    """Publish the finished captioning run DIR: its shards, its record, and a card.

    No image is uploaded: images belong to their authors, and rows name them by file name, id,
    address and SHA-256.

    \b
    Examples:
      d2s publish dataset dense/coco --repo me/coco --license cc-by-4.0 --dry-run
      d2s publish dataset dense/coco --repo me/coco --license cc-by-4.0
    """
    from pipelines.hub.dataset.tree import make_dataset_tree

    licence = check_licence(
        license,
        of="the texts may be used (it depends on the licences of the model and of the images)",
    )
    tree = make_dataset_tree(
        directory,
        repo=options["repo"],
        license=licence,
        sources=[check_repo(name) for name in sources],
        max_errors=max_errors,
        max_flagged=max_flagged,
        say=say,
    )
    share(tree, kind="dataset", **options)
