"""`d2s import`: dense text that exists already becomes a captioning run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.console.command_line import find_words, say
from pipelines.console.outputs import OUTPUT_FOLDER
from pipelines.console.progress import ProgressReporter

if TYPE_CHECKING:
    from captioner.imports.run import PreparedImport

PARTIAL = 3
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    "import",
    epilog="Exit codes: 0 done, 1 failure, 2 usage, 3 some rows have no text.",
)
@click.argument("file", metavar="FILE")
@click.option(
    "--format",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "d2s-jsonl", "sharegpt4v", "jsonl", "csv", "parquet", "hub"]),
    help="d2s-jsonl: a text a line in the order of --ids. sharegpt4v: a JSON list of "
    "conversations. jsonl, csv, parquet, hub: rows with columns. auto: by name and first line.",
)
@click.option(
    "--out",
    type=OUTPUT_FOLDER,
    help="Folder for the shards.  [default: dense/NAME of the images or of the file]",
)
@click.option(
    "--ids",
    type=FILE,
    help="Ids of the images, one a line. d2s-jsonl: the text in the same place belongs to it. "
    "Otherwise: only these images, in this order.",
)
@click.option("--id-mapping", type=FILE, help="JSON of file names by id.")
@click.option(
    "--captions",
    type=click.Path(path_type=Path),
    help="Human captions, kept beside the texts: *_caps.txt in the order of --ids, or a file that "
    "`d2s train` knows.",
)
@click.option(
    "--images",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the images, recorded for `d2s train`; absolute file names are cut to it.",
)
@click.option("--text-column", help="Column of the text.  [default: by its usual names]")
@click.option("--id-column", help="Column of the image's id.  [default: by its usual names]")
@click.option(
    "--file-column",
    help="Column of the file name, or of the image, whose path it then is.  [default: by its usual "
    "names]",
)
@click.option("--split", help="Of all rows; of a data set, the split to read.")
@click.option("--model-name", help="What wrote the texts.  [default: as the file says]")
@click.option("--prompt", help="What it was asked, if known.")
@click.option(
    "--shard-size",
    default=1000,
    show_default=True,
    type=click.IntRange(min=1),
    help="Rows of one Parquet file.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many images.")
@click.option("--dry-run", is_flag=True, help="Check everything, say what would be written.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def import_(
    file: str,
    text_column: str | None,
    id_column: str | None,
    file_column: str | None,
    dry_run: bool,
    as_json: bool,
    **arguments: Any,
) -> int:
    """Bring the dense text of FILE into shards, as `d2s caption` would have written them.

    FILE is a file, a folder that the datasets library reads, or hf:NAME for a data set of the Hub.
    A text is tied to its image by id or file name. A line that cannot be read is refused, never
    passed over: it would shift what comes after it.

    \b
    Examples:
      d2s import texts.jsonl --images coco/ --dry-run
      d2s import train_caps.jsonl --ids train_ids.txt --out dense/coco
    """
    from captioner.imports.columns import TextColumns
    from captioner.imports.run import ImportOptions, prepare_import, write_import

    columns = TextColumns(text=text_column, id=id_column, file=file_column)
    prepared = prepare_import(ImportOptions(file, columns=columns, **arguments))
    prepared = replace(prepared, command=find_words())
    for note in prepared.notes:
        say(note, command="import")
    if dry_run:
        _print_plan(prepared, as_json=as_json)
        return 0
    total = len(prepared.plan.records)
    with ProgressReporter(total=total, label="import", unit="texts", done=0) as reporter:
        run = write_import(prepared, on_progress=reporter.update)
    about = {"directory": str(prepared.directory), "new": prepared.previous is None, **run}
    click.echo(json.dumps(about) if as_json else _summarise(prepared, run))
    return PARTIAL if run["counts"]["errors"] else 0


def _print_plan(prepared: PreparedImport, *, as_json: bool) -> None:
    about = {
        "dry_run": True,
        "directory": str(prepared.directory),
        "images": len(prepared.plan.records),
        "shards": prepared.plan.shards,
        "done": prepared.previous is not None,
        "fingerprint": prepared.fingerprint,
        "settings": prepared.settings,
    }
    if as_json:
        click.echo(json.dumps(about))
        return
    source = prepared.source
    click.echo(f"texts    {len(prepared.plan.records):,} from {source.name} ({source.format})")
    click.echo(f"model    {prepared.settings['model']}")
    click.echo(
        f"shards   {prepared.plan.shards:,} of {prepared.plan.shard_size:,} rows "
        f"in {prepared.directory}"
    )
    click.echo("dry run: nothing was written")


def _summarise(prepared: PreparedImport, run: dict[str, Any]) -> str:
    counts, flags = run["counts"], run["flags"]
    lines = [f"{counts['rows']:,} rows in {prepared.directory}: {counts['ok']:,} ok"]
    failed = [f"{count:,} {status}" for status, count in run["statuses"].items() if status != "ok"]
    lines[0] += "".join(f", {part}" for part in failed)
    if flags:
        lines.append("flags: " + ", ".join(f"{flag} {count:,}" for flag, count in flags.items()))
    if prepared.previous is not None:
        lines.append("nothing was left to do")
    return "\n".join(lines)
