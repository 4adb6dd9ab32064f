"""`d2s caption`: dense text for a folder of images."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from captioner.preprocess import ASPECTS
from captioner.prompts import DEFAULT_PROMPT, HUB_MODELS, SHIPPED
from captioner.sampling import Sampling
from data.images import MAX_IMAGE_PIXELS
from pipelines.progress import ProgressReporter

if TYPE_CHECKING:
    from captioner.prepare import PreparedRun
    from captioner.run import CaptionResult, Progress

PARTIAL, INTERRUPTED = 3, 130
_PAPER = Sampling()


@click.command(
    epilog="Exit codes: 0 all images captioned, 1 failure, 2 usage, 3 some images are error rows, "
    "130 interrupted with the state saved."
)
@click.option(
    "--model",
    required=True,
    help=f"One of {', '.join([*HUB_MODELS, *SHIPPED])}, any Hub id, or a folder with weights.",
)
@click.option(
    "--images",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of images, read with its subfolders; hidden files are passed over.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the shards.  [default: dense/NAME-OF-THE-IMAGES-FOLDER]",
)
@click.option(
    "--shard-size",
    default=1000,
    show_default=True,
    type=click.IntRange(min=1),
    help="Rows of one Parquet file.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many images.")
@click.option(
    "--prompt",
    default=DEFAULT_PROMPT,
    show_default=True,
    help="Put through the model's own chat template.",
)
@click.option(
    "--max-tokens",
    default=_PAPER.max_tokens,
    show_default=True,
    type=click.IntRange(min=1),
    help="Longest text, in tokens.",
)
@click.option(
    "--temperature",
    default=_PAPER.temperature,
    show_default=True,
    type=click.FloatRange(0, 2),
    help="0 is greedy; the default is the paper's.",
)
@click.option(
    "--top-p",
    default=_PAPER.top_p,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="The default is the paper's.",
)
@click.option(
    "--seed",
    default=_PAPER.seed,
    show_default=True,
    type=click.IntRange(min=0),
    help="Each image's own seed comes from it and from the image's path.",
)
@click.option(
    "--aspect",
    type=click.Choice(ASPECTS),
    help="How a photo becomes a square: pad (as LLaVA-1.5 was trained), crop, squash; keep leaves "
    "it to the model.  [default: as the model was trained]",
)
@click.option(
    "--max-image-pixels",
    default=MAX_IMAGE_PIXELS,
    show_default=True,
    type=click.IntRange(min=1),
    help="Larger images become error rows; read from the header, before decoding.",
)
@click.option("--revision", help="Branch, tag or commit of a model of the Hub.")
@click.option(
    "--retry-errors", is_flag=True, help="Caption again the images whose rows are errors."
)
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    help="auto: float32 on a CPU, the model's own on a GPU.",
)
@click.option(
    "--kv-cache-dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "fp8"]),
    help="fp8 lets a GPU hold twice as many texts in work.",
)
@click.option(
    "--gpu-memory",
    default=0.92,
    show_default=True,
    type=click.FloatRange(0.1, 1),
    help="Share of the GPU's memory for the engine.",
)
@click.option(
    "--max-model-len",
    type=click.IntRange(min=1),
    help="Tokens of prompt and text together.  [default: as many as needed]",
)
@click.option(
    "--decode-workers",
    type=click.IntRange(min=1),
    help="Processes that decode images.  [default: one less than cores, at most 8]",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--engine", default="vllm", type=click.Choice(["vllm", "scripted"]), hidden=True)
def caption(dry_run: bool, as_json: bool, **arguments: Any) -> int:
    """Write dense text for a folder of images into Parquet shards, one row per image.

    The same command again goes on where it was left: nothing is captioned twice. An image that
    cannot be captioned is a row that says why, and the exit code is then 3.
    """
    from captioner.prepare import prepare_caption

    with _hear_signals() as signals:
        prepared = prepare_caption(**arguments, fetch=not dry_run)
        if dry_run:
            _print_plan(prepared, as_json=as_json)
            return 0
        result = _run(prepared, signals)
    if as_json:
        click.echo(json.dumps(asdict(result), default=str))
    else:
        click.echo(_summarise(result))
    if result.interrupted:
        _say(f"interrupted; {_count_saved(result)}: run the same command again to go on")
        return INTERRUPTED
    return PARTIAL if result.errors else 0


class _Signals:
    """Whether a stop was asked for. Before the work begins a signal ends the command at once."""

    def __init__(self) -> None:
        self.stopped = False
        self.working = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        if self.stopped or not self.working:
            raise KeyboardInterrupt
        self.stopped = True
        _say("stopping: saving what is in flight; once more ends at once")


@contextmanager
def _hear_signals() -> Iterator[_Signals]:
    """Ctrl-C and SIGTERM set a flag that the runner asks for, so that its state is saved."""
    signals = _Signals()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, signals.hear)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(prepared: "PreparedRun", signals: _Signals) -> "CaptionResult":
    from captioner.run import run_prepared

    total = len(prepared.plan.records)
    for line in _describe_plan(prepared):
        _say(line)
    if prepared.new_images:
        _say(
            f"{prepared.new_images:,} images in {prepared.images} are not in the plan of this run "
            "and are left out: give another --out to caption them"
        )
    reporter: ProgressReporter | None = None

    def follow(progress: "Progress") -> None:
        nonlocal reporter
        if reporter is None:
            signals.working = True
            reporter = ProgressReporter(
                total=total, label="caption", unit="images", done=progress.done
            ).__enter__()
        reporter.update(progress.done)

    try:
        return run_prepared(
            prepared, stop=lambda: signals.stopped, on_progress=follow, on_event=_say
        )
    finally:
        if reporter is not None:
            reporter.__exit__(None, None, None)


def _print_plan(prepared: "PreparedRun", *, as_json: bool) -> None:
    # A new run's depends on the model's files too.
    unknown = prepared.choice.unfetched and prepared.previous is None
    about = {
        "directory": str(prepared.directory),
        "images": len(prepared.plan.records),
        "passed_over": prepared.passed_over,
        "shards": prepared.plan.shards,
        "begun": prepared.previous is not None,
        "done": _count_rows(prepared),
        "fingerprint": None if unknown else prepared.fingerprint,
        "settings": prepared.settings,
    }
    if as_json:
        click.echo(json.dumps(about))
        return
    for line in _describe_plan(prepared):
        click.echo(line)
    click.echo("dry run: nothing was written")


def _describe_plan(prepared: "PreparedRun") -> list[str]:
    """What was found, what it will be captioned with, and where the texts go."""
    settings, choice = prepared.settings, prepared.choice
    place = "; its weights are not here yet" if choice.unfetched else ""
    if choice.folder is not None:
        place = f" in {choice.folder}"
    state = "new"
    if prepared.previous is not None:
        state = f"begun, {_count_rows(prepared):,} rows in finished shards"
    lines = [f"images   {len(prepared.plan.records):,} in {prepared.images}"]
    if prepared.passed_over:
        kinds = [f"{n:,} {kind or 'without suffix'}" for kind, n in prepared.passed_over.items()]
        count = sum(prepared.passed_over.values())
        what = "file that is no image" if count == 1 else "files that are no images"
        lines.append(f"passed over {count:,} {what}: {', '.join(kinds)}")
    return [
        *lines,
        f"shards   {prepared.plan.shards:,} of {prepared.plan.shard_size:,} rows "
        f"in {prepared.directory} ({state})",
        f"model    {settings['model']} ({settings['revision']}){place}",
        f"prompt   {settings['prompt']}",
        f"sampling {json.dumps(settings['sampling'])}",
    ]


def _count_rows(prepared: "PreparedRun") -> int:
    return int((prepared.previous or {}).get("counts", {}).get("rows", 0))


def _summarise(result: "CaptionResult") -> str:
    lines = [f"{result.rows:,} of {result.planned:,} rows in {result.directory}: {result.ok:,} ok"]
    failed = [f"{count:,} {status}" for status, count in result.statuses.items() if status != "ok"]
    lines[0] += "".join(f", {part}" for part in failed)
    if result.flags:
        flags = ", ".join(f"{flag} {count:,}" for flag, count in result.flags.items())
        lines.append(f"flags: {flags}")
    if result.generated and result.seconds:
        rate = result.generated / result.seconds
        lines.append(
            f"this session: {result.generated:,} images in {result.seconds:,.1f} s, "
            f"{rate:,.1f} images/s"
        )
    elif result.complete:
        lines.append("nothing was left to do")
    if result.errors and result.complete:
        lines.append(
            "the errors' reasons are in the column `error`; --retry-errors tries them again"
        )
    return "\n".join(lines)


def _count_saved(result: "CaptionResult") -> str:
    return f"{result.done:,} of {result.planned:,} images are saved in {result.directory}"


def _say(message: str) -> None:
    print(f"d2s caption: {message}", file=sys.stderr, flush=True)
