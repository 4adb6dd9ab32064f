"""`d2s publish`: uploads a data set, a model or a Space to the Hub."""

from __future__ import annotations

import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from pipelines.console.options import FOLDER, NumberRange, shared
from pipelines.hub.options import (
    Publishing,
    check_licence,
    check_repo,
    publishing_options,
    say,
    share,
)

_SHARE = NumberRange(0, 1)


@click.group()
def publish() -> None:
    """Share a data set, a model or a search page on the Hugging Face Hub.

    Log in with `hf auth login` or set HF_TOKEN. After an interruption run the same command again:
    files that are on the Hub already are not sent again.

    \b
    Examples:
      d2s publish dataset dense/coco --repo me/coco-dense --license cc-by-4.0
    """


@publish.command(
    short_help="Share the dense text of a run.",
    epilog=(
        "The card is generated from the records of the run: command, model, prompt, counts, "
        "examples."
    ),
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--license", "licence",
              help="License of the texts, as the Hub names it, such as cc-by-4.0. "
              "Required.")  # fmt: skip
@click.option("--source-dataset", "sources", multiple=True, metavar="OWNER/NAME",
              help="Data set of the Hub that the images come from. Can be repeated.")  # fmt: skip
@click.option("--max-errors", type=_SHARE, default=0.01, show_default=True,
              help="Refuse to publish if more than this share of the rows has no "
              "text.")  # fmt: skip
@click.option("--max-flagged", type=_SHARE, default=0.25, show_default=True,
              help="Refuse to publish if more than this share of the texts is "
              "flagged.")  # fmt: skip
@publishing_options
def dataset(
    directory: Path,
    licence: str | None,
    sources: tuple[str, ...],
    max_errors: float,
    max_flagged: float,
    **options: Any,
) -> None:
    """Publish the finished captioning run DIR: its shards, its settings, and a card.

    Images are never uploaded; each row names its image by file name, id, URL and SHA-256.

    \b
    Examples:
      d2s publish dataset dense/coco --repo me/coco --license cc-by-4.0 --dry-run
      d2s publish dataset dense/coco --repo me/coco --license cc-by-4.0
    """
    from pipelines.hub.dataset.tree import make_dataset_tree

    asked = Publishing(**options)
    tree = make_dataset_tree(
        directory,
        repo=asked.repo,
        license=check_licence(
            licence,
            of=(
                "the texts may be used (this depends on the licenses of the model and of the "
                "images)"
            ),
        ),
        sources=[check_repo(name) for name in sources],
        max_errors=max_errors,
        max_flagged=max_flagged,
        say=say,
    )
    share(tree, asked, kind="dataset")


@publish.command(
    short_help="Share a trained model with its results.",
    epilog="The card is generated from the records of the run and the results of `d2s evaluate` "
    "for these weights.",
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--license", "licence",
              help="License of the weights, as the Hub names it, such as apache-2.0. "
              "Required.")  # fmt: skip
@click.option("--seed-run", "seed_runs", multiple=True, type=FOLDER,
              help="Run that differs only in its seed, for the mean and deviation on the card. Can "
              "be repeated.")  # fmt: skip
@shared("dataset")
@publishing_options
def model(
    directory: Path,
    licence: str | None,
    seed_runs: tuple[Path, ...],
    datasets: tuple[str, ...],
    **options: Any,
) -> None:
    """Publish the model of the finished training run DIR.

    Uploads the weights (safetensors), config.json, tokenizer, preprocessing, the recipes of both
    stages, and a card with R@K for each data set and split. `vse.load("OWNER/NAME")` loads it.

    \b
    Examples:
      d2s publish model runs/stage2 --repo you/d2s-coco --license mit --dry-run
      d2s publish model s0/stage2 --seed-run s1/stage2 --repo me/x --license mit
    """
    from pipelines.hub.model import make_model_tree

    asked = Publishing(**options)
    tree = make_model_tree(
        directory,
        repo=asked.repo,
        licence=check_licence(
            licence,
            of=(
                "the weights may be used (this depends on the licenses of the backbones and "
                "the data)"
            ),
        ),
        seed_runs=seed_runs,
        datasets=[check_repo(name) for name in datasets],
        say=say,
    )
    share(tree, asked, kind="model")


@publish.command(
    short_help="Share a page that searches an index.",
    epilog="A model of the Hub is linked; one in a folder is copied into the Space. Without "
    "--images-license no thumbnails are published.",
)
@shared("index", "model")
@click.option("--license", "licence",
              help="License of the Space, as the Hub names it, such as apache-2.0. "
              "Required.")  # fmt: skip
@click.option("--images-license", "images_licence",
              help="License of the images, if it allows sharing thumbnails; without it the Space "
              "has none.")  # fmt: skip
@shared("images")
@shared("dense", help="Also share this dense text: the folder of a captioning run.")
@shared("captions", help="Also share these sparse captions.")
@shared("dataset", "top")
@publishing_options
def space(licence: str | None, datasets: tuple[str, ...], **options: Any) -> None:
    """Publish the page of `d2s serve` as a Space of the Hub.

    \b
    Examples:
      d2s publish space --index coco.parquet --repo me/x --license mit --to-dir x
      d2s publish space --index coco.parquet --repo me/x --license mit
    """
    licence = check_licence(licence, of="the Space may be used")
    from pipelines.hub.space.tree import SpaceSettings, make_space_tree

    common = {field.name: options.pop(field.name) for field in fields(Publishing)}
    asked = SpaceSettings(
        licence=licence, datasets=[check_repo(name) for name in datasets], **options
    )
    if asked.images_licence is not None:
        check_licence(asked.images_licence, of="the images may be shared")
    elif asked.images is not None:
        raise click.UsageError("--images requires --images-license")
    publishing = Publishing(**common)
    with tempfile.TemporaryDirectory(prefix="d2s-space-") as work:
        tree = make_space_tree(asked, Path(work), repo=publishing.repo, say=say)
        share(tree, publishing, kind="space", sdk="gradio")
