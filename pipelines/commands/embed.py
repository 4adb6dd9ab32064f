"""`d2s embed`: embeddings of many images or texts in one Parquet file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data.errors import UserError
from data.signals import StopRequest
from pipelines.console.command_line import say
from pipelines.console.options import IMAGES_HELP, SOURCE, GroupedCommand, group_options
from pipelines.console.outputs import Output
from pipelines.console.progress import ProgressReporter

if TYPE_CHECKING:
    from vse.search.build import BuildResult, Encoder
    from vse.search.index import Index
    from vse.search.schema import IndexInfo

PARTIAL = 3
# Named on stderr; all of them are in the file's metadata and in --json.
_NAMED = 5
GROUPS = {
    "What": (
        click.option("--images", help=IMAGES_HELP),
        click.option(
            "--texts",
            type=click.Path(path_type=Path),
            help="A text a line (.txt), .jsonl, .csv, .parquet, hf:NAME, captions "
            "(dataset_*.json, captions_*.json, captions.txt), or the folder of a captioning run.",
        ),
        *SOURCE,
        click.option("--text-column", help="Of a table.  [default: the usual names]"),
        click.option("--limit", type=click.IntRange(min=1), help="Only the first so many."),
    ),
    "How": (
        click.option(
            "--model",
            default="runs/stage2",
            show_default=True,
            help="Folder of a training run, or a model of the Hub (OWNER/NAME).",
        ),
        click.option("--device", help="As torch calls it.  [default: the GPU if there is one]"),
        click.option(
            "--dtype",
            default="float32",
            show_default=True,
            type=click.Choice(["float32", "bfloat16", "float16"]),
            help="Of the arithmetic; the last two are for GPUs.",
        ),
        click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            default=4,
            show_default=True,
            help="Threads that read and decode images.",
        ),
    ),
    "Where to": (
        click.option(
            "--out",
            required=True,
            type=Output(dir_okay=False),
            help="The Parquet file.",
        ),
        click.option(
            "--store",
            default="float32",
            show_default=True,
            type=click.Choice(["float32", "float16"]),
            help="How the file keeps a value; float16 halves it.",
        ),
        click.option(
            "--part-size",
            type=click.IntRange(min=1),
            default=1024,
            show_default=True,
            help="What an interruption may cost: finished parts are kept.",
        ),
        click.option("--faiss", is_flag=True, help="Make the graph of `d2s search --faiss`, too."),
        click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    ),
}


@click.command(
    cls=GroupedCommand,
    epilog="Exit codes: 0 done, 1 failed, 2 called wrongly, 3 done but some images could not be "
    "read (or rows had no text), 130 interrupted: run the same command again to go on.",
)
@group_options(GROUPS)
def embed(model: str, out: Path, faiss: bool, dry_run: bool, as_json: bool, **options: Any) -> int:
    """Embed images (--images) or texts (--texts) into a Parquet file, which `d2s search` searches.

    One row each: id, image_id, file_name, text, embedding (of length 1). The file's metadata name
    the model, its hash and the size of its input.

    \b
    Examples:
      d2s embed --images coco/ --out coco.parquet
      d2s embed --texts queries.txt --out queries.parquet
    """
    if (options["images"] is None) == (options["texts"] is None):
        raise click.UsageError("say what to embed: --images or --texts, one of them")
    task = _prepare(model, out, options)
    if dry_run:
        say(f"dry run: would write {out}")
        return 0
    # A job scheduler's SIGTERM ends the command as Ctrl-C does, its threads included.
    with StopRequest(working=False):
        result = _run(task, out, part_size=options["part_size"])
        if faiss:
            _make_graph(result.index)
    _report_left_out(result, task.unit)
    summary = {
        "index": str(out),
        "kind": task.info.kind,
        "model": model,
        "weights_sha256": task.info.weights_sha256,
        "px": task.info.px,
        "width": task.info.width,
        "rows": result.rows,
        "texts_cut": result.index.cut,
        "left_out": [dict(entry) for entry in result.left_out],
    }
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        state = ", as it was" if result.already else ""
        lost = f", {len(result.left_out):,} left out" if result.left_out else ""
        click.echo(f"{out}: {result.rows:,} {task.unit} of {task.info.width} values{lost}{state}")
    return PARTIAL if result.left_out else 0


def _make_graph(index: Index) -> None:
    """The faiss graph of an index, made if it is not there."""
    from vse.search.graph import build_graph, open_graph

    if open_graph(index) is None:
        with ProgressReporter(total=len(index), label="graph", unit="rows") as progress:
            build_graph(index, on_row=progress.update)


@dataclass(frozen=True)
class _Task:
    """What will be embedded, and what makes the encoder once it is needed."""

    info: IndexInfo
    total: int
    unit: str
    make_encoder: Callable[[], Encoder]


def _prepare(model: str, out: Path, options: dict[str, Any]) -> _Task:
    """Find model and items; neither torch nor the model is loaded."""
    from vse.runs.models import find_model, identify_model
    from vse.search.build import find_finished

    folder = find_model(model)
    identity = identify_model(folder, name=model)
    common = {"precision": options["dtype"], "stored": options["store"]}
    plan = _prepare_images if options["images"] is not None else _prepare_texts
    task = plan(folder, identity, common, options)
    if not task.total:
        raise UserError(f"nothing to embed: no {task.unit} in {options[task.unit]}")
    say(f"model     {model} ({identity.px} px, weights {identity.weights_sha256[:12]})")
    finished = find_finished(out, task.info)
    if finished is not None:
        say(f"index     {out} is finished: nothing is left to do")
    return task


def _prepare_images(
    folder: Path, identity: Any, common: dict[str, str], options: dict[str, Any]
) -> _Task:
    from data.sources.columns import Columns
    from data.sources.opening import SourceOptions, list_source, open_source
    from vse.search.build import ImageEncoder, list_images
    from vse.search.schema import IndexInfo

    if options["text_column"] is not None:
        raise click.UsageError("--text-column goes with --texts")
    given = SourceOptions(
        root=options["image_root"],
        split=options["split"],
        config=options["dataset_config"],
        streaming=options["streaming"],
        columns=Columns(image=options["image_column"], id=options["id_column"]),
    )
    source = open_source(options["images"], given)
    listing = list_source(source, given)
    records = listing.records[: options["limit"]]
    for note in listing.notes:
        say(f"note      {note}")
    say(f"images    {len(records):,} in {options['images']}")
    info = IndexInfo.of(
        identity,
        kind="images",
        given=options["images"],
        listing=list_images(records),
        source=source.to_dict(),
        **common,
    )

    def make_encoder() -> Encoder:
        return ImageEncoder(
            _load(folder, options),
            info,
            source,
            records,
            batch_size=options["batch_size"],
            workers=options["workers"],
        )

    return _Task(info, len(records), "images", make_encoder)


def _prepare_texts(
    folder: Path, identity: Any, common: dict[str, str], options: dict[str, Any]
) -> _Task:
    from data.tables.texts import read_texts
    from vse.search.build import TextEncoder, list_texts
    from vse.search.schema import IndexInfo

    unfitting = ("image_root", "dataset_config", "streaming", "image_column", "id_column")
    for name in unfitting:
        if options[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --images")
    path: Path = options["texts"]
    found = read_texts(path, column=options["text_column"], split=options["split"])
    records = found[: options["limit"]]
    say(f"texts     {len(records):,} in {path}")
    info = IndexInfo.of(
        identity, kind="texts", given=str(path), listing=list_texts(records), **common
    )

    def make_encoder() -> Encoder:
        return TextEncoder(_load(folder, options), info, records, batch_size=options["batch_size"])

    return _Task(info, len(records), "texts", make_encoder)


def _load(folder: Path, options: dict[str, Any]) -> Any:
    import vse

    return vse.load(folder, device=options["device"], dtype=options["dtype"])


def _run(task: _Task, out: Path, *, part_size: int) -> BuildResult:
    from vse.search.build import build_index

    reporter: ProgressReporter | None = None

    def follow(done: int) -> None:
        nonlocal reporter
        if reporter is None:
            if done:
                say(f"going on  {done:,} of {task.total:,} {task.unit} are done already")
            reporter = ProgressReporter(
                total=task.total, label="embed", unit=task.unit, done=done
            ).__enter__()
        reporter.update(done)

    try:
        return build_index(
            out,
            task.info,
            task.make_encoder,
            total=task.total,
            part_size=part_size,
            on_item=follow,
            warn=say,
        )
    except KeyboardInterrupt:
        say("interrupted; finished parts are kept: run the same command again to go on")
        raise
    finally:
        if reporter is not None:
            reporter.__exit__(None, None, None)


def _report_left_out(result: BuildResult, unit: str) -> None:
    if result.index.cut:
        say(f"note      {result.index.cut:,} texts are longer than the tower reads and were cut")
    entries: Sequence[Any] = result.left_out
    if entries:
        say(f"left out  {len(entries):,} {unit}:")
    for entry in entries[:_NAMED]:
        say(f"          {entry['file_name'] or entry['id']}: {entry['error']}")
    if entries[_NAMED:]:
        say(f"          ... and {len(entries) - _NAMED:,} more: --json lists all")
