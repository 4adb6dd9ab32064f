"""`d2s convert`: checkpoints of the code released with the paper become runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pipelines.console.command_line import say
from pipelines.console.outputs import OUTPUT_FOLDER


@click.command(
    epilog="Nothing in a checkpoint is run: tensors, plain values and an argparse.Namespace are "
    "all that is read of it."
)
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=OUTPUT_FOLDER,
              help="Run folder to write.")  # fmt: skip
@click.option("--tokenizer", help="Hub name, run folder or folder with a tokenizer.json.  "
                                  "[default: bert-base-uncased]")  # fmt: skip
@click.option("--px", type=click.IntRange(min=1),
              help="Side of the input, where the checkpoint does not say.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Read and check everything, write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def convert(
    source: Path,
    out: Path,
    tokenizer: str | None,
    px: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a run's folder of SOURCE, a .pth of the released code, stage 1 or 2.

    The folder is read by `d2s evaluate`, `d2s train --stage 2 --init` and `vse.load`. The weights
    stay what they are, bit for bit.

    \b
    Examples:
      d2s convert model_best.pth --out runs/theirs
    """
    from vse.released.reading import BERT, check_free, find_tokenizer, prepare_run, write_run

    check_free(out)
    run = prepare_run(source, tokenizer=find_tokenizer(tokenizer or BERT), px=px)
    if not dry_run:
        write_run(run, out)
    config = run.config
    about = {
        "out": str(out),
        "stage": config["stage"],
        "weights": config["weights"]["all"],
        "px": config["model"]["image"]["px"],
        "notes": list(run.notes),
        "dry_run": dry_run,
    }
    for note in run.notes:
        say(note, command="convert")
    if as_json:
        click.echo(json.dumps(about))
        return
    what = f"stage {about['stage']}, {about['weights']:,} weights, {about['px']} px"
    click.echo(f"{source} -> {out}: {what}")
    if dry_run:
        click.echo("dry run: nothing was written")
