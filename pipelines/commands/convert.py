"""`d2s convert`: checkpoints of the code released with the paper, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pipelines.console.command_line import say


@click.command(
    epilog="Nothing in a checkpoint is run: tensors, plain values and an argparse.Namespace are "
    "all that is read of it."
)
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path),
              help="Run folder to write, or the .pth with --to released.")  # fmt: skip
@click.option("--to", type=click.Choice(["run", "released"]), default="run", show_default=True,
              help="run: SOURCE is a .pth of the released code, stage 1 or 2. "
                   "released: SOURCE is a run's folder.")  # fmt: skip
@click.option("--tokenizer", help="Hub name, run folder or folder with a tokenizer.json.  "
                                  "[default: bert-base-uncased]")  # fmt: skip
@click.option("--px", type=click.IntRange(min=1),
              help="Side of the input, where the checkpoint does not say.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Read and check everything, write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def convert(
    source: Path,
    out: Path,
    to: str,
    tokenizer: str | None,
    px: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a run's folder of a checkpoint of the released code, or such a checkpoint of a run.

    The folder is read by `d2s evaluate`, `d2s train --stage 2 --init` and `vse.load`. The weights
    stay what they are, bit for bit, both ways.

    \b
    Examples:
      d2s convert model_best.pth --out runs/theirs
      d2s convert runs/stage2 --to released --out ours.pth
    """
    if to == "released":
        if tokenizer is not None or px is not None:
            raise click.UsageError("--tokenizer and --px belong to the way from a checkpoint")
        about = _to_released(source, out, dry_run=dry_run)
    else:
        about = _to_run(source, out, tokenizer=tokenizer, px=px, dry_run=dry_run)
    for note in about["notes"]:
        say(note, command="convert")
    if as_json:
        click.echo(json.dumps(about))
        return
    what = f"stage {about['stage']}, {about['weights']:,} weights, {about['px']} px"
    click.echo(f"{source} -> {out}: {what}")
    if dry_run:
        click.echo("dry run: nothing was written")


def _to_run(
    source: Path, out: Path, *, tokenizer: str | None, px: int | None, dry_run: bool
) -> dict[str, Any]:
    from vse.released.reading import check_free, prepare_run, write_run
    from vse.released.vocabulary import BERT, find_tokenizer

    check_free(out)
    run = prepare_run(source, tokenizer=find_tokenizer(tokenizer or BERT), px=px)
    if not dry_run:
        write_run(run, out)
    config = run.config
    return {
        "out": str(out),
        "stage": config["stage"],
        "weights": config["weights"]["all"],
        "px": config["model"]["image"]["px"],
        "notes": list(run.notes),
        "dry_run": dry_run,
    }


def _to_released(source: Path, out: Path, *, dry_run: bool) -> dict[str, Any]:
    from data.errors import UserError
    from vse.released.checkpoint import write_checkpoint
    from vse.released.writing import prepare_checkpoint

    if out.exists():
        raise UserError(f"{out} exists already: use another --out")
    made = prepare_checkpoint(source)
    if not dry_run:
        write_checkpoint(made.checkpoint, out)
    return {
        "out": str(out),
        "stage": made.stage,
        "weights": made.count,
        "px": made.px,
        "notes": list(made.notes),
        "dry_run": dry_run,
    }
