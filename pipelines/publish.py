"""`d2s publish`: the commands that share what was made on the Hub."""

from __future__ import annotations

import click

from pipelines.lazy_group import Door, LazyGroup

DOORS: dict[str, Door] = {
    "dataset": Door("pipelines.publish_dataset", "dataset", "Share the dense text of a run."),
    "model": Door("pipelines.publish_model", "model", "Share a trained model with its figures."),
    "space": Door("pipelines.publish_space", "space", "Share a page that searches an index."),
}


@click.group(cls=LazyGroup, doors=DOORS)
def publish() -> None:
    """Share data sets and models on the Hugging Face Hub.

    HF_TOKEN, or `hf auth login`, says who you are. What is there already is not sent again: after
    an interruption the same command goes on.

    \b
    Examples:
      d2s publish dataset dense/coco --repo me/coco-dense --license cc-by-4.0
    """
