"""`d2s train`: both stages, or one of them."""

from __future__ import annotations

import importlib.util
import io
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from data.errors import UserError
from pipelines.console.command_line import (
    print_result,
    repeat_arguments,
    say,
    write_line,
)
from pipelines.console.launcher import (
    check_devices,
    die_with_launcher,
    is_launched,
    is_main_process,
    run_in_processes,
)
from pipelines.console.options import COUNT, FOLDER, shared
from pipelines.console.verbosity import find_info_stream

if TYPE_CHECKING:
    from vse.training.spec import RunSpec


@dataclass(frozen=True)
class TrainOptions:
    """The options of a training run, as typed."""

    stage: str | None  # None: 1, then 2
    dense: Path | None
    images: Path | None
    captions: Path | None
    out: Path | None
    recipe: str | None
    overrides: tuple[str, ...]
    epochs: int | None
    steps: int | None
    batch_size: int | None
    seed: int | None
    init: Path | None
    limit: int | None
    starts: bool = True  # stage 1 must exist for stage 2; False if it will be trained first

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise click.UsageError("--epochs cannot be combined with --steps")
        if self.init is not None and self.stage != "2":
            raise click.UsageError("--init requires --stage 2")
        if self.dense is not None and self.stage == "sparse":
            raise click.UsageError("--stage sparse does not use dense text: omit --dense")

    @property
    def settings(self) -> dict[str, Any]:
        """The options that change settings of the recipe."""
        return {
            f"optim__{name}": getattr(self, name)
            for name in ("epochs", "steps", "batch_size", "seed")
        }


# fmt: off
@click.command()
@click.option("--stage", type=click.Choice(["1", "2", "joint", "sparse"]),
              help="1: train on dense text. 2: train on sparse captions, starting from stage 1. "
                   "joint: both in each step. "
                   "sparse: the baseline, on sparse captions alone.  [default: 1, then 2]")
@shared("dense", "images", "captions")
@shared("out", help="Folder of the run; without --stage, the folder for stage1/ and stage2/.  "
        "[default: runs/stage1, runs/stage2, runs/joint or runs/sparse]")
@shared("recipe", help="Recipe: a name listed by `d2s recipe`, or a YAML file.  "
        "[default: paper; in stage 2 that of stage 1]")
@shared("set")
@click.option("--epochs", type=COUNT, help="Number of epochs to train each stage for.")
@click.option("--steps", type=COUNT, help="Number of steps, instead of epochs.")
@click.option("--batch-size", type=click.IntRange(min=2),
              help="Global batch size, over all GPUs.")
@shared("seed")
@click.option("--init", type=FOLDER,
              help="Folder of the stage 1 or joint run that stage 2 starts from.  "
                   "[default: runs/stage1]")
@click.option("--tracker", "trackers", multiple=True, type=click.Choice(["tensorboard", "wandb"]),
              help="Also log the figures to this tracker. Can be repeated.")
@shared("gpus")
@shared("limit", help="Use only the first N images of each split.")
@shared("dry-run", "json")
# fmt: on
def train(
    trackers: tuple[str, ...], gpus: int, dry_run: bool, as_json: bool, **options: Any
) -> int:
    """Train the retrieval model. Run the same command again to continue where it stopped.

    On several machines, run `accelerate launch -m pipelines.cli train --stage ...` on each.

    \b
    Examples:
      d2s train --dry-run
      d2s train --stage 1 --gpus 2 --set optim.precision=bf16
      d2s train --stage 2 --out runs/l2 --set loss.distill=l2
    """
    die_with_launcher()
    if gpus > 1 and is_launched():
        raise click.UsageError("the processes are already started: omit --gpus")
    check_trackers(trackers)
    stages = list_stages(TrainOptions(**options), dry_run=dry_run)
    if len(stages) > 1 and (is_launched() or (gpus > 1 and as_json)):
        raise click.UsageError(
            "specify --stage: with this launcher, one stage is trained at a time")
    outcomes: dict[str, Any] = {}
    for later in stages[1:]:
        check_settings(later, recipe=stages[0].recipe)  # not after hours of stage 1
    for asked in stages:
        spec = specify_training(asked)
        check_shares(spec, gpus)
        if gpus > 1 and not dry_run:
            code = train_in_processes(spec, gpus)
            if code:
                return code
            continue
        stream = find_info_stream() if is_main_process() else io.StringIO()
        for line in describe_spec(spec):
            write_line(line, stream)
        outcome = dry_run_training(spec, gpus) if dry_run else run_training(spec, stream, trackers)
        outcomes[f"stage{asked.stage}"] = outcome
    if as_json and outcomes and is_main_process():
        print_result(outcomes if len(stages) > 1 else outcome, (), as_json=True)
    return 0


def list_stages(asked: TrainOptions, *, dry_run: bool) -> list[TrainOptions]:
    """The requested stages, each as if it had been typed alone."""
    from vse.runs.config import MODEL, RUNS

    if asked.stage is not None:
        return [asked]
    places = [
        RUNS[stage] if asked.out is None else asked.out / RUNS[stage].name for stage in ("1", "2")
    ]
    there = (places[0] / MODEL).is_file()
    # Stage 2 reads the recipe of stage 1, which may not exist yet in a dry run.
    recipe = None if there or not dry_run else asked.recipe
    second = replace(
        asked, stage="2", out=places[1], init=places[0], recipe=recipe, starts=there or not dry_run
    )
    return [replace(asked, stage="1", out=places[0]), second]


def train_in_processes(spec: RunSpec, count: int) -> int:
    """Run the same command in `count` processes for this stage; returns the exit code."""
    check_devices(count)
    again = [sys.executable, "-P", "-m", "pipelines.cli", "train", "--stage", spec.stage]
    again += ["--out", str(spec.out), *(() if spec.init is None else ("--init", str(spec.init)))]
    # Stage 2 uses the recipe of stage 1.
    left: tuple[str, ...] = ("gpus", "stage", "out", "init")
    if spec.stage == "2" and not click.get_current_context().params["stage"]:
        left = (*left, "recipe")
    return run_in_processes([*again, *repeat_arguments(leave_out=left)], count=count)


def check_trackers(names: tuple[str, ...]) -> None:
    """UserError for a tracker whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"--tracker {name} needs the package {name}: pip install {name}, or omit the option"
            )


def check_shares(spec: RunSpec, processes: int) -> None:
    """UserError if the global batch cannot be divided evenly."""
    batch = spec.recipe.optim.batch_size
    if batch % processes:
        raise UserError(
            f"a global batch of {batch} cannot be divided among {processes} processes: make "
            "--batch-size a multiple of their number"
        )


def check_settings(asked: TrainOptions, *, recipe: str | None) -> None:
    """UserError for settings of a stage that are invalid, before the one before it is trained."""
    from vse.recipes.files import read_recipe, resolve
    from vse.runs.config import MODEL, recipe_of
    from vse.training.spec import refuse_unfitting

    assert asked.stage is not None and asked.init is not None
    begun = (asked.init / MODEL).is_file()
    raw = recipe_of(asked.init) if begun else read_recipe(recipe or "paper")
    settings = resolve(raw, stage=asked.stage, overrides=asked.overrides, **asked.settings)
    refuse_unfitting(settings, asked.stage)


def specify_training(asked: TrainOptions) -> RunSpec:
    """Find the input and resolve the settings."""
    from vse.recipes.files import read_recipe
    from vse.runs.config import RUNS, find_places, recipe_of
    from vse.samples.discovery import find_input
    from vse.training.spec import make_spec

    assert asked.stage is not None
    init = asked.init or (RUNS["1"] if asked.stage == "2" else None)
    init = init if asked.starts else None
    searches = asked.images is None and asked.captions is None
    raw = recipe_of(init) if init and not asked.recipe else read_recipe(asked.recipe or "paper")
    return make_spec(
        stage=asked.stage,
        out=asked.out or RUNS[asked.stage],
        raw=raw,
        overrides=asked.overrides,
        options=asked.settings,
        paths=find_input(
            images=asked.images,
            captions=asked.captions,
            dense=asked.dense,
            wants_dense=asked.stage != "sparse",
            wants_captions=False,
            before=None if init is None else find_places(init, needs_captions=searches),
        ),
        init=init,
        limit=asked.limit,
    )


def describe_spec(spec: RunSpec) -> list[str]:
    """The input that was found and will be used, one line each."""
    from data.escaping import shown

    recipe, optim, counts = spec.recipe, spec.recipe.optim, spec.corpus.counts()
    length = spec.length
    splits = ", ".join(f"{counts[split]} {split}" for split in counts)
    item = "images" if spec.one_per_image else "captions"
    lines = [
        f"images    {shown(spec.paths.images)}",
        f"captions  {shown(spec.source.path)} ({spec.source.kind}; {splits} images used)",
    ]
    if spec.paths.dense is not None:
        names = f" ({', '.join(recipe.data.texts)})" if recipe.data.texts else ""
        lines.append(f"dense     {shown(spec.paths.dense)}{names}")
    if spec.paths.dense_with_captions:
        lines.append(f"dense     {shown(spec.source.path)} (with the captions)")
    if spec.init is not None:
        lines.append(f"init      {shown(spec.init)}")
    lines += [f"note      {note}" for note in spec.corpus.notes]
    lines += [
        f"towers    {recipe.image.name or 'image tower from scratch'} at {recipe.image.px} px, "
        f"{recipe.text.name or 'text tower from scratch'}, width {recipe.width}",
        f"training  stage {spec.stage}: {length.items} {item} per epoch, {length.steps} steps of "
        f"{optim.batch_size} ({length.steps / length.steps_per_epoch:.1f} epochs), "
        f"{recipe.loss.align}, seed {optim.seed}",
        f"out       {shown(spec.out)}",
    ]
    return lines


def dry_run_training(spec: RunSpec, gpus: int) -> dict[str, Any]:
    """Print the estimates for the run; UserError if it would fail."""
    from pipelines.console.forecast import describe_forecast, refuse_problems
    from vse.runs.config import check_fingerprint
    from vse.training.forecast.run import forecast_run

    check_fingerprint(spec.out, spec.fingerprint)
    found = forecast_run(
        spec.recipe,
        stage=spec.stage,
        corpus=spec.corpus,
        out=spec.out,
        init=spec.init,
        processes=gpus,
    )
    batch_size = spec.recipe.optim.batch_size
    for line in describe_forecast(found, batch_size=batch_size):
        say(line)
    refuse_problems(found)
    return {"dry_run": True, "out": str(spec.out), "steps": spec.length.steps, **found.to_dict()}


def run_training(spec: RunSpec, stream: TextIO, trackers: tuple[str, ...]) -> dict[str, Any]:
    """Train and report the result."""
    from data.escaping import shown
    from pipelines.console.train_progress import TrainProgress
    from vse.training.run import train as train_model

    progress = TrainProgress(stream)
    try:
        done = train_model(spec, report=progress, trackers=trackers)
    finally:
        progress.close()
    best = "" if done.best_rsum is None else f", validation rSum {done.best_rsum:.1f}"
    progress.say(
        f"finished: {done.step} steps in {done.seconds:.0f} s; "
        f"best at step {done.best_step}{best}; model in {shown(spec.out)}"
    )
    return {
        "out": str(spec.out),
        "steps": done.step,
        "seconds": done.seconds,
        "best_step": done.best_step,
        "best_rsum": done.best_rsum,
    }
