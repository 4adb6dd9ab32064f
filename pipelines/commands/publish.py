"""`d2s publish`: the commands that share what was made on the Hub."""

from __future__ import annotations

import click

from pipelines.console.lazy_group import Door, LazyGroup

COMMANDS: dict[str, Door] = {
    "dataset": Door(
        "pipelines.commands.publish_dataset", "dataset", "Share the dense text of a run."
    ),
    "model": Door(
        "pipelines.commands.publish_model", "model", "Share a trained model with its figures."
    ),
    "space": Door(
        "pipelines.commands.publish_space", "space", "Share a page that searches an index."
    ),
}


@click.group(cls=LazyGroup, doors=COMMANDS)
def publish() -> None:
    """Share data sets and models on the Hugging Face Hub.

    HF_TOKEN, or `hf auth login`, says who you are. What is there already is not sent again: after
    an interruption the same command goes on.

    \b
    Examples:
      d2s publish dataset dense/coco --repo me/coco-dense --license cc-by-4.0
    """
