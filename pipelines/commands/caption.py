"""`d2s caption`: dense text for images."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data.errors import UsageError
from data.signals import StopRequest
from pipelines.commands.caption_options import GROUPS, read_settings
from pipelines.console.command_line import find_words, print_result, say
from pipelines.console.forecast import describe_captioning
from pipelines.console.options import GroupedCommand, group_options
from pipelines.console.progress import ProgressReporter

if TYPE_CHECKING:
    from captioner.run import CaptionResult, Progress
    from captioner.run.forecast import CaptionForecast
    from captioner.settings.config import CaptionConfig
    from captioner.settings.prepare import PreparedRun
    from captioner.settings.texts import PreparedTexts

PARTIAL, INTERRUPTED = 3, 130
_AGAIN = "run the same command again to continue"


@click.command(
    cls=GroupedCommand,
    epilog="Exit codes: 0 all images captioned, 1 failed, 2 wrong usage, 3 some rows are errors "
    "(or shards are left that no job works on, or answers are missing in --batch-file), "
    "130 interrupted, progress saved.",
)
@group_options(GROUPS)
@click.pass_context
def caption(
    ctx: click.Context,
    dry_run: bool,
    trial: int | None,
    price: float | None,
    as_json: bool,
    **_: Any,
) -> int:
    """Write dense text for images into Parquet shards, one row per image.

    Run the same command again to continue after an interruption: nothing is captioned twice. An
    image that cannot be captioned becomes a row with the reason, and the exit code is then 3.

    \b
    Examples:
      d2s caption --model llava-1.5-7b --images coco/ --limit 100
      d2s caption --model llava-1.5-7b --images 'x-{000..099}.tar' --dry-run
      d2s caption --model llava-1.5-7b --images coco/ --server http://gpu1:8000
      d2s caption --model qwen3-vl-4b --images coco/ --prompts prompts.yaml
      d2s caption --model gpt-4.1-mini --images coco/ --batch-file requests/
      d2s caption --config run.yaml --set engine.max_num_seqs=64
    """
    if not dry_run and trial is not None:
        raise UsageError("--trial requires --dry-run")
    with StopRequest(working=False, on_ask=_say_stopping) as signals:
        prepared = _prepare(read_settings(ctx), dry_run=dry_run)
        if dry_run:
            found = _try_images(prepared, signals, trial)
            if signals.asked:
                return INTERRUPTED
            _print_plan(prepared, found, price=price, as_json=as_json)
            return 0
        result = _run(prepared, signals, price=price)
    about = asdict(result)
    for each in (about, *about["texts"].values()):
        if not each["texts"]:
            del each["texts"]
    print_result(about, _summarise(result), as_json=as_json)
    if result.interrupted:
        say(f"interrupted; {_count_saved(result)}: {_AGAIN}")
        return INTERRUPTED
    batch = prepared.config.batch.batch_file
    if batch is not None and not result.complete:
        return _say_waiting(result, batch)
    if not result.complete and not result.elsewhere:
        say(f"some shards are left that no job is working on; {_count_saved(result)}: {_AGAIN}")
        return PARTIAL
    return PARTIAL if result.errors else 0


def _say_waiting(result: "CaptionResult", folder: Path) -> int:
    """Report requests without an answer; returns the exit code."""
    from captioner.engine.batch import list_answers

    say(
        f"images without an answer: {result.planned - result.done:,}. Have "
        f"{folder}/requests-*.jsonl answered, put the answers into {folder} as .jsonl files, and "
        "run the same command again"
    )
    return PARTIAL if list_answers(folder) else 0


def _say_stopping() -> None:
    say("stopping after saving what is in progress; press Ctrl-C again to stop at once")


def _prepare(config: "CaptionConfig", *, dry_run: bool) -> "PreparedRun | PreparedTexts":
    from captioner.run.together import prepare_either, prepare_together

    if dry_run:
        return prepare_either(config, fetch=False)
    return prepare_together(config, on_event=say).replace_each(command=find_words())


def _list_runs(prepared: "PreparedRun | PreparedTexts") -> "list[PreparedRun]":
    """The run of each text, in the order of the file, or the only run."""
    from captioner.settings.texts import PreparedTexts

    return [*prepared.runs.values()] if isinstance(prepared, PreparedTexts) else [prepared]


def _run(
    prepared: "PreparedRun | PreparedTexts", signals: StopRequest, *, price: float | None
) -> "CaptionResult":
    from captioner.run import run_either

    runs = _list_runs(prepared)
    total = sum(run.planned_rows for run in runs)
    for line in _describe_plan(runs):
        say(line)
    for name in getattr(prepared, "unasked", ()):
        say(
            f"{name} in {prepared.directory} is no longer in the file of prompts; it stays "
            "unchanged"
        )
    if new := max(run.new_images for run in runs):
        say(
            f"{new:,} images in {_name_images(runs[0])} are not part of this run and are ignored: "
            "use --append to add them"
        )
    unit = "images" if runs[0].text is None else "texts"
    reporter: ProgressReporter | None = None

    def follow(progress: "Progress") -> None:
        nonlocal reporter
        if reporter is None:
            signals.working = True
            reporter = ProgressReporter(
                total=total, label="caption", unit=unit, done=progress.done
            ).__enter__()
        reporter.update(progress.done, note=_describe_load(progress, reporter, price))

    hooks: dict[str, Any] = {"stop": lambda: signals.asked, "on_progress": follow, "on_event": say}
    try:
        return run_either(prepared, **hooks)
    finally:
        if reporter is not None:
            reporter.__exit__(None, None, None)


def _describe_load(progress: "Progress", reporter: ProgressReporter, price: float | None) -> str:
    """The load of the engine, and the cost of the run so far and in total."""
    told = [f"{progress.tokens_per_second:,.0f} tokens/s"] if progress.tokens_per_second else []
    preempted = progress.load.get("preemptions", 0)
    told += [f"{preempted:,} preemptions"] if preempted else []
    if price is not None and reporter.rate:
        an_hour = price * max(1, progress.load.get("gpus", 0))
        spent = an_hour * reporter.seconds / 3600
        left = an_hour * (progress.total - progress.done) / reporter.rate / 3600
        told.append(f"cost {spent:,.2f} of {spent + left:,.2f}")
    return ", ".join(told)


def _try_images(
    prepared: "PreparedRun | PreparedTexts", signals: StopRequest, trial: int | None
) -> "CaptionForecast | None":
    from captioner.run.forecast import count_remaining, try_images

    runs = _list_runs(prepared)
    # With a cluster, this machine may not be able to run the model.
    unasked = trial is None and runs[0].config.placement.cluster is not None
    # Batch files cannot be answered during a trial.
    batch = runs[0].config.batch.batch_file is not None
    if batch and trial:
        raise UsageError("--trial asks a model, and with --batch-file there is none to ask")
    unfetched = batch or any(run.choice.unfetched for run in runs)
    if unfetched or not any(map(count_remaining, runs)) or unasked or trial == 0:
        return None
    signals.working = True
    return try_images(prepared, count=trial, stop=lambda: signals.asked, on_event=say)


def _print_plan(
    prepared: "PreparedRun | PreparedTexts",
    found: "CaptionForecast | None",
    *,
    price: float | None,
    as_json: bool,
) -> None:
    runs = _list_runs(prepared)
    first = runs[0]
    about = {
        "dry_run": True,
        "directory": str(prepared.directory),
        "images": len(first.plan.records),
        "passed_over": first.passed_over,
        "shards": first.plan.shards,
        "begun": any(run.previous is not None for run in runs),
        "done": _count_rows(runs),
        "forecast": None if found is None else asdict(found),
    }
    if first.text is None:
        about |= _describe_run(first)
    else:
        about |= {"fingerprint": None, "settings": {}}
        about["texts"] = {
            run.text.name: {**_describe_run(run), "done": _count_rows([run])}
            for run in runs
            if run.text is not None
        }
    if found is not None and price is not None:
        about["cost"] = asdict(found.device_hours.times(price))
    forecast = ["no trial was run, so there is no estimate of time and cost"]
    if found is not None:
        unit = "images" if first.text is None else "texts"
        forecast = list(describe_captioning(found, price=price, unit=unit))
    changed = [f"{name} will be generated again" for name in getattr(prepared, "changed", ())]
    lines = [*_describe_plan(runs), *changed, *forecast, "dry run: nothing was written"]
    print_result(about, lines, as_json=as_json)


def _describe_run(run: "PreparedRun") -> dict[str, Any]:
    # A new run's fingerprint depends on the model's files too.
    unknown = run.choice.unfetched and run.previous is None
    return {"fingerprint": None if unknown else run.fingerprint, "settings": run.settings}


def _describe_plan(runs: "list[PreparedRun]") -> list[str]:
    """The images, the captioning model, and the output folder."""
    first = runs[0]
    lines = [f"images   {len(first.plan.records):,} in {_name_images(first)}"]
    if first.passed_over:
        kinds = [f"{n:,} {kind or 'without suffix'}" for kind, n in first.passed_over.items()]
        count = sum(first.passed_over.values())
        what = "file that is not an image" if count == 1 else "files that are not images"
        lines.append(f"skipped {count:,} {what}: {', '.join(kinds)}")
    lines += first.notes
    for run in runs:
        lines += _describe_text(run)
    return lines


def _describe_text(run: "PreparedRun") -> list[str]:
    settings, choice = run.settings, run.choice
    place = "; its weights are not downloaded yet" if choice.unfetched else ""
    if choice.folder is not None:
        place = f" in {choice.folder}"
    state = "new"
    if run.previous is not None:
        state = f"started, {_count_rows([run]):,} rows in finished shards"
    lines = []
    if run.text is not None:
        samples = f", {run.text.samples} samples" if run.text.samples > 1 else ""
        reads = f", reads {', '.join(run.text.reads)}" if run.text.reads else ""
        lines = [f"text     {run.text.name}{samples}{reads}"]
    return [
        *lines,
        f"shards   {run.plan.shards:,} of {run.plan.shard_size:,} rows "
        f"in {run.directory} ({state})",
        f"model    {settings['model']} ({settings['revision']}){place}",
        f"prompt   {settings['prompt']}",
        f"sampling {json.dumps(settings['sampling'])}",
    ]


def _name_images(prepared: "PreparedRun") -> str:
    return str(prepared.images["images_given"])


def _count_rows(runs: "list[PreparedRun]") -> int:
    return sum(int((run.previous or {}).get("counts", {}).get("rows", 0)) for run in runs)


def _summarise(result: "CaptionResult") -> list[str]:
    lines = [f"{result.rows:,} of {result.planned:,} rows in {result.directory}: {result.ok:,} ok"]
    failed = [f"{count:,} {status}" for status, count in result.statuses.items() if status != "ok"]
    lines[0] += "".join(f", {part}" for part in failed)
    for name, text in result.texts.items():
        lines.append(f"{name}: {text.rows:,} of {text.planned:,} rows, {text.ok:,} ok")
    if result.flags:
        flags = ", ".join(f"{flag} {count:,}" for flag, count in result.flags.items())
        lines.append(f"flags: {flags}")
    if result.generated and result.seconds:
        rate, unit = result.generated / result.seconds, "texts" if result.texts else "images"
        lines.append(
            f"this session: {result.generated:,} {unit} in {result.seconds:,.1f} s, "
            f"{rate:,.1f} {unit}/s"
        )
    elif result.complete:
        lines.append("there was nothing left to do")
    if result.elsewhere and not result.interrupted:
        owners = ", ".join(f"{count:,} with {owner}" for owner, count in result.elsewhere.items())
        lines.append(
            f"shards are being written elsewhere ({owners}); the last job to finish completes the "
            "run. If a job fails, run it again"
        )
    if result.errors and result.complete:
        lines.append("the column `error` has the reasons; --retry-errors tries these images again")
    return lines


def _count_saved(result: "CaptionResult") -> str:
    unit = "texts" if result.texts else "images"
    return f"{result.done:,} of {result.planned:,} {unit} are saved in {result.directory}"
