"""`d2s export`: exports a captioning run to other formats."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.console.command_line import print_result, say
from pipelines.console.options import shared
from pipelines.console.outputs import Output

if TYPE_CHECKING:
    from captioner.exports.run import ExportResult, PreparedExport

PARTIAL = 3


@click.command(
    epilog="Rows that are left out are counted in the output. Exit code 3: some images are missing "
    "or have changed."
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--format",
    required=True,
    type=click.Choice(
        ["parquet", "jsonl", "webdataset", "d2s-jsonl", "txt", "llava", "csv", "pairs"]
    ),
    help="Format to write. parquet: shards with all columns. jsonl: the same, one row per line. "
    "webdataset: tar files of image, text and metadata, without error rows. d2s-jsonl: for the "
    "released D2S-VSE code, one text per image in the order of --ids. txt: NAME.txt for each "
    "image. llava: JSON of conversations (LLaVA, ShareGPT4V). csv: filepath and title (open_clip). "
    "pairs: short captions with their dense texts (sentence-transformers).",
)
@shared(
    "out",
    required=True,
    type=Output(),
    help="Folder (parquet, webdataset, txt) or file (the others) to write.",
)
@shared(
    "ids",
    help="File with one image id per line: only these images, in this order. Each must have a "
    "row, and for d2s-jsonl a text.",
)
@shared("id-mapping")
@click.option(
    "--embed-images", is_flag=True, help="parquet: include the images (the Hub's Image feature)."
)
@shared("images")
@click.option("--only-ok", is_flag=True, help="Leave out error rows.")
@shared("shard-size", "limit")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
@shared("dry-run", "json")
def export(directory: Path, dry_run: bool, as_json: bool, **arguments: Any) -> int:
    """Export the rows of the finished captioning run DIR for other programs.

    \b
    Examples:
      d2s export dense/coco --format jsonl --out coco.jsonl
      d2s export dense/coco --format webdataset --out coco-tars --images coco/
    """
    from captioner.exports.run import ExportOptions, prepare_export, write_export

    prepared = prepare_export(directory, ExportOptions(**arguments))
    for note in prepared.notes:
        say(note)
    if dry_run:
        _print_plan(prepared, as_json=as_json)
        return 0
    result = write_export(prepared)
    for note in result.notes:
        say(note)
    print_result(asdict(result), _summarise(result), as_json=as_json)
    return PARTIAL if result.lost else 0


def _print_plan(prepared: PreparedExport, *, as_json: bool) -> None:
    about = {
        "dry_run": True,
        "out": str(prepared.out),
        "format": prepared.format,
        "rows": prepared.rows,
        "left_out": prepared.left_out,
    }
    line = f"{prepared.rows:,} rows to {prepared.out} as {prepared.format}"
    print_result(about, [line, "dry run: nothing was written"], as_json=as_json)


def _summarise(result: ExportResult) -> list[str]:
    files = "1 file" if result.files == 1 else f"{result.files:,} files"
    lines = [f"{result.rows:,} rows in {result.out} ({result.format}, {files}, {result.bytes:,} B)"]
    if result.left_out:
        counts = ", ".join(f"{count:,} {status}" for status, count in result.left_out.items())
        lines.append(f"left out because they have no text: {counts}")
    return lines
