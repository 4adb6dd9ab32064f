"""`d2s publish`: what was made here, as a data set, a model or a Space of the Hub."""

from __future__ import annotations

import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from pipelines.console.options import NumberRange
from pipelines.hub.options import (
    Publishing,
    check_licence,
    check_repo,
    publishing_options,
    say,
    share,
)

_SHARE = NumberRange(0, 1)
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def publish() -> None:
    """Share data sets and models on the Hugging Face Hub.

    HF_TOKEN, or `hf auth login`, says who you are. What is there already is not sent again: after
    an interruption the same command goes on.

    \b
    Examples:
      d2s publish dataset dense/coco --repo me/coco-dense --license cc-by-4.0
    """


@publish.command(
    short_help="Share the dense text of a run.",
    epilog="The card says what the run recorded: command, model, prompt, counts, examples.",
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

    asked = Publishing(**options)
    licence = check_licence(
        license,
        of="the texts may be used (it depends on the licences of the model and of the images)",
    )
    tree = make_dataset_tree(
        directory,
        repo=asked.repo,
        license=licence,
        sources=[check_repo(name) for name in sources],
        max_errors=max_errors,
        max_flagged=max_flagged,
        say=say,
    )
    share(tree, asked, kind="dataset")


@publish.command(
    short_help="Share a trained model with its figures.",
    epilog="The card says what the run recorded and `d2s evaluate` measured of these weights: "
    "nothing in it is typed.",
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--license", "licence",
              help="Licence of the weights as the Hub names it: apache-2.0. Required.")  # fmt: skip
@click.option("--seed-run", "seed_runs", multiple=True, type=FOLDER,
              help="A run of the same recipe with another seed, measured alike, for mean and "
              "deviation; may be given again.")  # fmt: skip
@click.option("--dataset", "datasets", multiple=True, metavar="OWNER/NAME",
              help="Data set of the Hub that it was trained on; may be given again.")  # fmt: skip
@publishing_options
def model(
    directory: Path,
    licence: str | None,
    seed_runs: tuple[Path, ...],
    datasets: tuple[str, ...],
    **options: Any,
) -> None:
    """Publish the model of the finished training run DIR.

    Weights as safetensors, config.json, tokenizer, preprocessing, recipes of the training, and a
    card with R@K per data set and split. `vse.load("OWNER/NAME")` gives the same embeddings.

    \b
    Examples:
      d2s publish model runs/stage2 --repo you/d2s-coco --license mit --dry-run
      d2s publish model runs/s0 --seed-run runs/s1 --repo you/x --license mit
    """
    from pipelines.hub.model import make_model_tree

    asked = Publishing(**options)
    tree = make_model_tree(
        directory,
        repo=asked.repo,
        licence=check_licence(
            licence,
            of="the weights may be used (it depends on the licences of backbones and data)",
        ),
        seed_runs=seed_runs,
        datasets=[check_repo(name) for name in datasets],
        say=say,
    )
    share(tree, asked, kind="model")


@publish.command(
    short_help="Share a page that searches an index.",
    epilog="A model of the Hub is named in the Space, one of a folder copied into it. Without "
    "--images-license no picture is published, without --dense and --captions no text but those "
    "that are searched.",
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
def space(licence: str | None, datasets: tuple[str, ...], **options: Any) -> None:
    """Publish a page that searches the indexes by text or by photo.

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
    elif asked.pictures is not None:
        raise click.UsageError("--pictures goes with --images-license")
    publishing = Publishing(**common)
    with tempfile.TemporaryDirectory(prefix="d2s-space-") as work:
        tree = make_space_tree(asked, Path(work), repo=publishing.repo, say=say)
        share(tree, publishing, kind="space", sdk="gradio")
