"""`d2s embed`: embeddings of many images or texts in one Parquet file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data.errors import UserError
from data.signals import StopRequest
from pipelines.console.command_line import print_dry_run, print_result, say
from pipelines.console.options import (
    COUNT,
    PLACE,
    SOURCE,
    GroupedCommand,
    group_options,
    shared,
)
from pipelines.console.outputs import Output
from pipelines.console.progress import ProgressReporter

if TYPE_CHECKING:
    from data.sources.opening import SourceOptions
    from vse.embedders.embedder import Embedder
    from vse.runs.models import ModelIdentity
    from vse.search.build import BuildResult, Encoder
    from vse.search.index import Index
    from vse.search.schema import IndexInfo

PARTIAL = 3
# Number of items named on stderr; all are in the file's metadata and in --json.
_NAMED = 5
GROUPS = {
    "What to embed": (
        shared("source"),
        click.option(
            "--texts",
            type=PLACE,
            help="The texts: a .txt file with one per line, .jsonl, .csv, .parquet, hf:NAME, "
            "captions (dataset_*.json, captions_*.json, captions.txt), or the folder of a "
            "captioning run.",
        ),
        shared(*SOURCE[1:], "text-column", "limit"),
    ),
    "Model": (
        shared(
            "model",
            default="runs/stage2",
            show_default=True,
            help="The model: folder of a training run, or OWNER/NAME on the Hub.",
        ),
        shared("device", "dtype"),
        shared("batch-size", default=64),
        shared("workers"),
    ),
    "Output": (
        click.option(
            "-o",
            "--out",
            required=True,
            type=Output(dir_okay=False),
            help="Parquet file to write.",
        ),
        click.option(
            "--store",
            default="float32",
            show_default=True,
            type=click.Choice(["float32", "float16"]),
            help="Precision of the stored embeddings; float16 halves the file.",
        ),
        click.option(
            "--part-size",
            type=COUNT,
            default=1024,
            show_default=True,
            help="Save progress after this many rows.",
        ),
        click.option(
            "--faiss", is_flag=True, help="Also build the graph for `d2s search --faiss`."
        ),
        shared("dry-run", "json"),
    ),
}


@click.command(
    cls=GroupedCommand,
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but some images could not be "
    "read (or rows had no text), 130 interrupted: run the same command again to continue.",
)
@group_options(GROUPS)
def embed(model: str, out: Path, faiss: bool, dry_run: bool, as_json: bool, **options: Any) -> int:
    """Embed images (--images) or texts (--texts) into a Parquet file for `d2s search`.

    Each row has id, image_id, file_name, text and an embedding of length 1. The metadata of the
    file name the model, its hash and its input size.

    \b
    Examples:
      d2s embed --images coco/ --out coco.parquet
      d2s embed --texts queries.txt --out queries.parquet
    """
    if (options["images"] is None) == (options["texts"] is None):
        raise click.UsageError("specify what to embed: either --images or --texts")
    if faiss:
        from vse.search.graph import import_faiss

        # Before the images are embedded, which can take days.
        import_faiss()
    task = _prepare(model, out, options)
    if dry_run:
        print_dry_run([str(out)], as_json=as_json)
        return 0
    # SIGTERM from a job scheduler ends the command like Ctrl-C, including its threads.
    with StopRequest(working=False):
        result = _run(task, out, part_size=options["part_size"])
        _report(result, task, out, model, as_json=as_json)
        if faiss:
            _make_graph(result.index)
    return PARTIAL if result.left_out else 0


def _report(result: BuildResult, task: _Task, out: Path, model: str, *, as_json: bool) -> None:
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
    state = ", unchanged" if result.already else ""
    lost = f", {len(result.left_out):,} left out" if result.left_out else ""
    line = f"{out}: {result.rows:,} {task.unit} of {task.info.width} values{lost}{state}"
    print_result(summary, [line], as_json=as_json)


def _make_graph(index: Index) -> None:
    """Build the faiss graph of an index if it does not exist."""
    from vse.search.graph import build_graph, open_graph

    if open_graph(index) is None:
        with ProgressReporter(total=len(index), label="graph", unit="rows") as progress:
            build_graph(index, on_row=progress.update)


@dataclass(frozen=True)
class _Task:
    """The items to embed, and a function that creates the encoder when needed."""

    info: IndexInfo
    total: int
    unit: str
    make_encoder: Callable[[], Encoder]


def _prepare(model: str, out: Path, options: dict[str, Any]) -> _Task:
    """Find model and items, without loading torch or the model."""
    from vse.runs.models import find_model, identify_model
    from vse.search.build import find_finished

    folder = find_model(model)
    identity = identify_model(folder, name=model)
    common = {"precision": options["dtype"], "stored": options["store"]}
    plan = _prepare_images if options["images"] is not None else _prepare_texts
    task = plan(folder, identity, common, {**options, "out": out})
    if not task.total:
        raise UserError(f"nothing to embed: no {task.unit} in {options[task.unit]}")
    say(f"model     {model} ({identity.px} px, weights {identity.weights_sha256[:12]})")
    finished = find_finished(out, task.info)
    if finished is not None:
        say(f"index     {out} is finished: there is nothing to do")
    return task


def _prepare_images(
    folder: Path, identity: ModelIdentity, common: dict[str, str], options: dict[str, Any]
) -> _Task:
    from data.sources.opening import list_source, open_source
    from vse.search.build import ImageEncoder, list_images, record_source
    from vse.search.schema import IndexInfo

    given = _read_source_options(options)
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
        source=record_source(source, records),
        **common,
    )

    def make_encoder() -> Encoder:
        return ImageEncoder(
            _load(folder, identity, options),
            info,
            source,
            records,
            batch_size=options["batch_size"],
            workers=options["workers"],
        )

    return _Task(info, len(records), "images", make_encoder)


def _read_source_options(options: dict[str, Any]) -> SourceOptions:
    from data.sources.columns import Columns
    from data.sources.dataset import refuse_inside
    from data.sources.opening import SourceOptions

    if options["text_column"] is not None:
        raise click.UsageError("--text-column requires --texts")
    refuse_inside(options["images"], options["out"])
    return SourceOptions(
        root=options["image_root"],
        split=options["split"],
        config=options["dataset_config"],
        streaming=options["streaming"],
        columns=Columns(image=options["image_column"], id=options["id_column"]),
        revision=_find_revision(options["out"], options["images"]),
    )


def _find_revision(out: Path, images: str) -> str | None:
    """The revision on the Hub that finished parts are of; it may have moved on since."""
    from data.sources.dataset import PREFIX
    from vse.search.parts import read_begun

    begun = read_begun(out)
    options = begun.source.get("options", {}) if begun is not None else {}
    if images != f"{PREFIX}{options.get('name')}" or options.get("revision") is None:
        return None
    revision = str(options["revision"])
    say(f"note      continuing with revision {revision[:12]} of {images}")
    return revision


def _prepare_texts(
    folder: Path, identity: ModelIdentity, common: dict[str, str], options: dict[str, Any]
) -> _Task:
    from data.tables.texts import read_texts
    from vse.search.build import TextEncoder, list_texts
    from vse.search.schema import IndexInfo

    unfitting = ("image_root", "dataset_config", "streaming", "image_column", "id_column")
    for name in unfitting:
        if options[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} requires --images")
    path: Path = options["texts"]
    found = read_texts(
        path,
        column=options["text_column"],
        split=options["split"],
        on_note=lambda note: say(f"note      {note}"),
    )
    records = found[: options["limit"]]
    say(f"texts     {len(records):,} in {path}")
    info = IndexInfo.of(
        identity, kind="texts", given=str(path), listing=list_texts(records), **common
    )

    def make_encoder() -> Encoder:
        embedder = _load(folder, identity, options)
        return TextEncoder(embedder, info, records, batch_size=options["batch_size"])

    return _Task(info, len(records), "texts", make_encoder)


def _load(folder: Path, identity: ModelIdentity, options: dict[str, Any]) -> Embedder:
    from vse.embedders.embedder import load_identified

    return load_identified(folder, identity, device=options["device"], dtype=options["dtype"])


def _run(task: _Task, out: Path, *, part_size: int) -> BuildResult:
    from vse.search.build import build_index

    reporter: ProgressReporter | None = None

    def follow(done: int) -> None:
        nonlocal reporter
        if reporter is None:
            if done:
                say(f"resuming  {done:,} of {task.total:,} {task.unit} already done")
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
        say("interrupted; finished parts are saved: run the same command again to continue")
        raise
    finally:
        if reporter is not None:
            reporter.__exit__(None, None, None)


def _report_left_out(result: BuildResult, unit: str) -> None:
    if result.index.cut:
        say(
            f"note      {result.index.cut:,} texts are too long for the text tower and were "
            "truncated"
        )
    entries: Sequence[Any] = result.left_out
    if entries:
        say(f"left out  {len(entries):,} {unit}:")
    for entry in entries[:_NAMED]:
        say(f"          {entry['file_name'] or entry['id']}: {entry['error']}")
    if entries[_NAMED:]:
        say(f"          ... and {len(entries) - _NAMED:,} more: --json lists all")
