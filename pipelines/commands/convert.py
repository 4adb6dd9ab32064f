"""`d2s convert`: converts checkpoints of the code released with the paper to runs."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.console.command_line import print_result, say
from pipelines.console.options import COUNT, shared


@click.command(
    epilog="Code in a checkpoint is never run: only tensors, plain values and an "
    "argparse.Namespace are read."
)
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
@shared("out", required=True, help="Folder of the run to write.")
@click.option("--tokenizer",
              help="Tokenizer: name on the Hub, folder of a run, or folder with a tokenizer.json.  "
              "[default: bert-base-uncased]")  # fmt: skip
@click.option("--px", type=COUNT,
              help="Input size in pixels, if the checkpoint does not record it.")  # fmt: skip
@shared("dry-run", "json")
def convert(
    source: Path,
    out: Path,
    tokenizer: str | None,
    px: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Convert SOURCE, a .pth checkpoint of the released code, to the folder of a run.

    `d2s evaluate`, `d2s train --stage 2 --init` and `vse.load` read it. The weights are copied bit
    for bit.

    \b
    Examples:
      d2s convert model_best.pth --out runs/theirs
    """
    from vse.released.checkpoint import find_checkpoint
    from vse.released.reading import BERT, check_free, find_tokenizer, prepare_run, write_run

    # Before the tokenizer, which may have to be downloaded.
    find_checkpoint(source)
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
        say(note)
    what = f"stage {about['stage']}, {about['weights']:,} weights, {about['px']} px"
    lines = [f"{source} -> {out}: {what}", *(["dry run: nothing was written"] if dry_run else [])]
    print_result(about, lines, as_json=as_json)
