"""`d2s import`: turns existing dense text into a captioning run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from pipelines.console.command_line import find_words, print_result, say
from pipelines.console.options import shared
from pipelines.console.progress import ProgressReporter

if TYPE_CHECKING:
    from captioner.imports.run import PreparedImport

PARTIAL = 3


@click.command(
    "import",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but some rows have no text.",
)
@click.argument("file", metavar="FILE")
@click.option(
    "--format",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "d2s-jsonl", "sharegpt4v", "txt", "jsonl", "csv", "parquet", "hub"]),
    help="Format of FILE. d2s-jsonl: one text per line, in the order of --ids. sharegpt4v: a JSON "
    "list of conversations. txt: a folder of NAME.txt beside its images, or beside those of "
    "--images. jsonl, csv, parquet, hub: rows with columns. auto: detected, except txt.",
)
@shared("out", help="Folder for the shards.  [default: dense/NAME of the images or of the file]")
@shared(
    "ids",
    help="File with one image id per line. With d2s-jsonl, line N of FILE is the text of id N; "
    "otherwise only these images are imported, in this order.",
)
@shared("id-mapping")
@shared(
    "captions",
    help="Sparse captions to keep beside the texts: *_caps.txt in the order of --ids, or a source "
    "of captions that `d2s train` reads.",
)
@shared("images", help="Folder of the images, recorded for `d2s train`.")
@shared("text-column", "id-column")
@click.option(
    "--file-column",
    help="Column with the file names or the images.  [default: the usual names]",
)
@shared(
    "split",
    help="Import only the texts of this split, or give it to texts of a file without splits.",
)
@click.option("--model-name", help="Model that wrote the texts.  [default: as FILE says]")
@click.option("--prompt", help="Prompt that the model was given, if known.")
@shared("shard-size", "limit", "dry-run", "json")
def import_(
    file: str,
    text_column: str | None,
    id_column: str | None,
    file_column: str | None,
    dry_run: bool,
    as_json: bool,
    **arguments: Any,
) -> int:
    """Import existing dense text from FILE, into shards like those of `d2s caption`.

    FILE is a file, a folder that the datasets library reads, or hf:NAME for a data set of the Hub.
    Texts are matched to images by id or file name. A line that cannot be read is an error.

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
        say(note)
    if dry_run:
        _print_plan(prepared, as_json=as_json)
        return 0
    total = len(prepared.plan.records)
    with ProgressReporter(total=total, label="import", unit="texts", done=0) as reporter:
        run = write_import(prepared, on_progress=reporter.update)
    about = {"directory": str(prepared.directory), "new": prepared.previous is None, **run}
    print_result(about, _summarise(prepared, run), as_json=as_json)
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
    source, plan = prepared.source, prepared.plan
    lines = [
        f"texts    {len(plan.records):,} from {source.name} ({source.format})",
        f"model    {prepared.settings['model']}",
        f"shards   {plan.shards:,} of {plan.shard_size:,} rows in {prepared.directory}",
        "dry run: nothing was written",
    ]
    print_result(about, lines, as_json=as_json)


def _summarise(prepared: PreparedImport, run: dict[str, Any]) -> list[str]:
    counts, flags = run["counts"], run["flags"]
    lines = [f"{counts['rows']:,} rows in {prepared.directory}: {counts['ok']:,} ok"]
    failed = [f"{count:,} {status}" for status, count in run["statuses"].items() if status != "ok"]
    lines[0] += "".join(f", {part}" for part in failed)
    if flags:
        lines.append("flags: " + ", ".join(f"{flag} {count:,}" for flag, count in flags.items()))
    if prepared.previous is not None:
        lines.append("there was nothing left to do")
    return lines
