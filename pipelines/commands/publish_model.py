"""`d2s publish model`: a trained model with a card, as a repository of the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipelines.hub.names import check_licence, check_repo
from pipelines.hub.options import publishing_options, say, share

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(
    epilog="The card says what the run recorded and `d2s evaluate` measured of these weights: "
    "nothing in it is typed."
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

    tree = make_model_tree(
        directory,
        repo=options["repo"],
        licence=check_licence(
            licence,
            of="the weights may be used (it depends on the licences of backbones and data)",
        ),
        seed_runs=seed_runs,
        datasets=[check_repo(name) for name in datasets],
        say=say,
    )
    share(tree, kind="model", **options)
