"""`d2s train`: stage 1 on dense text, stage 2 from dense to sparse, or the sparse-only baseline."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from data.errors import UserError
from pipelines.console.command_line import repeat_arguments, say
from pipelines.console.launcher import (
    check_devices,
    die_with_launcher,
    is_launched,
    is_main_process,
    run_in_processes,
)
from pipelines.console.options import complete_recipes
from pipelines.console.outputs import OUTPUT_FOLDER

if TYPE_CHECKING:
    from vse.training.spec import RunSpec

FOLDER = click.Path(file_okay=False, path_type=Path)


@dataclass(frozen=True)
class TrainOptions:
    """What a training run is made of, as it was typed."""

    stage: str
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

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise click.UsageError("--epochs and --steps exclude each other")
        if self.init is not None and self.stage != "2":
            raise click.UsageError("--init belongs to --stage 2")
        if self.dense is not None and self.stage == "sparse":
            raise click.UsageError("--stage sparse reads no dense text: leave --dense out")


# fmt: off
@click.command()
@click.option("--stage", type=click.Choice(["1", "2", "sparse"]), required=True,
              help="1: dense text. 2: sparse captions, from stage 1. "
                   "sparse: the baseline on sparse captions alone.")
@click.option("--dense", type=FOLDER, help="Dense text.  [default: the one folder under dense/]")
@click.option("--images", type=FOLDER, help="Images.  [default: as the dense text's run.json says]")
@click.option("--captions", type=click.Path(path_type=Path),
              help="Sparse captions and splits: Karpathy or COCO JSON, COCO's annotations "
                   "folder, captions.txt, or a folder of the released code's files, whose dense "
                   "text is then used too.  [default: the one in or beside the images folder]")
@click.option("--out", type=OUTPUT_FOLDER,
              help="Run folder.  [default: runs/stage1, stage2 or sparse]")
@click.option("--recipe", shell_complete=complete_recipes,
              help="One of those that `d2s recipe` lists, or a YAML file.  "
                   "[default: paper; stage 2 takes over that of stage 1]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
              help="Override a setting of the recipe, such as optim.lr=1e-4. Repeatable.")
@click.option("--epochs", type=click.IntRange(min=1), help="Length in epochs.")
@click.option("--steps", type=click.IntRange(min=1), help="Length in steps, instead of epochs.")
@click.option("--batch-size", type=click.IntRange(min=2), help="Global, all processes together.")
@click.option("--seed", type=click.IntRange(min=0), help="Of weights, order and augmentation.")
@click.option("--init", type=FOLDER, help="Stage 2: where stage 1 lies.  [default: runs/stage1]")
@click.option("--tracker", "trackers", multiple=True, type=click.Choice(["tensorboard", "wandb"]),
              help="Send the figures there too; TensorBoard's lie in the run folder. Repeatable.")
@click.option("--gpus", type=click.IntRange(min=1), default=1, show_default=True,
              help="Train on so many GPUs of this machine; on a CPU, in so many processes.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many images of each split.")
@click.option("--dry-run", is_flag=True, help="Check settings and data, say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
# fmt: on
def train(
    trackers: tuple[str, ...], gpus: int, dry_run: bool, as_json: bool, **options: Any
) -> int:
    """Train the retrieval model. The same command again continues where it stopped.

    Several machines: `accelerate launch -m pipelines.cli train ...` on each of them.

    \b
    Examples:
      d2s train --stage 1 --dry-run
      d2s train --stage 1 --gpus 2 --set optim.precision=bf16
      d2s train --stage 2 --out runs/l2 --set loss.distill=l2
    """
    die_with_launcher()
    if gpus > 1 and is_launched():
        raise click.UsageError("the processes are started already: leave --gpus out")
    spec = specify_training(TrainOptions(**options))
    check_shares(spec, gpus)
    check_trackers(trackers)
    if gpus > 1 and not dry_run:
        check_devices(gpus)
        again = [sys.executable, "-P", "-m", "pipelines.cli", "train"]
        return run_in_processes([*again, *repeat_arguments(leave_out=("gpus",))], count=gpus)
    stream = sys.stderr if is_main_process() else io.StringIO()
    for line in describe_spec(spec):
        print(line, file=stream)
    outcome = dry_run_training(spec, gpus) if dry_run else run_training(spec, stream, trackers)
    if as_json and is_main_process():
        click.echo(json.dumps(outcome, indent=2))
    return 0


def check_trackers(names: tuple[str, ...]) -> None:
    """UserError for a tracker whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"--tracker {name} needs the package {name}: pip install {name}, "
                "or leave the option out"
            )


def check_shares(spec: RunSpec, processes: int) -> None:
    """UserError if the global batch cannot be shared out evenly."""
    batch = spec.recipe.optim.batch_size
    if batch % processes:
        raise UserError(
            f"a global batch of {batch} cannot be shared by {processes} processes: "
            "make --batch-size a multiple of their number"
        )


def specify_training(asked: TrainOptions) -> RunSpec:
    """Find the input and settle the settings."""
    from vse.recipes.files import read_recipe
    from vse.runs.config import RUNS, recipe_of
    from vse.samples.discovery import find_input
    from vse.training.spec import make_spec

    init = asked.init or (RUNS["1"] if asked.stage == "2" else None)
    raw = recipe_of(init) if init and not asked.recipe else read_recipe(asked.recipe or "paper")
    # A length in epochs also lifts a recipe's own number of steps.
    lifted = () if asked.epochs is None else ("optim.steps=null",)
    return make_spec(
        stage=asked.stage,
        out=asked.out or RUNS[asked.stage],
        raw=raw,
        overrides=(*asked.overrides, *lifted),
        options={
            f"optim__{name}": getattr(asked, name)
            for name in ("epochs", "steps", "batch_size", "seed")
        },
        paths=find_input(
            images=asked.images,
            captions=asked.captions,
            dense=asked.dense,
            wants_dense=asked.stage != "sparse",
        ),
        init=init,
        limit=asked.limit,
    )


def describe_spec(spec: RunSpec) -> list[str]:
    """What was found and will be used, a line each."""
    from data.escaping import shown

    recipe, optim, counts = spec.recipe, spec.recipe.optim, spec.corpus.counts()
    length = spec.length
    splits = ", ".join(f"{counts[split]} {split}" for split in counts)
    item = "images" if spec.one_per_image else "captions"
    lines = [
        f"images    {shown(spec.paths.images)}",
        f"captions  {shown(spec.paths.captions)} ({spec.source.kind}; {splits} images used)",
    ]
    if spec.paths.dense is not None:
        lines.append(f"dense     {shown(spec.paths.dense)}")
    if spec.paths.dense_with_captions:
        lines.append(f"dense     {shown(spec.paths.captions)} (with the captions)")
    if spec.init is not None:
        lines.append(f"init      {shown(spec.init)}")
    lines += [f"note      {note}" for note in spec.corpus.notes]
    lines += [
        f"towers    {recipe.image.name or 'image tower from nothing'} at {recipe.image.px} px, "
        f"{recipe.text.name or 'text tower from nothing'}, width {recipe.width}",
        f"training  stage {spec.stage}: {length.items} {item} an epoch, {length.steps} steps of "
        f"{optim.batch_size} ({length.steps / length.steps_per_epoch:.1f} epochs), "
        f"{recipe.loss.align}, seed {optim.seed}",
        f"out       {shown(spec.out)}",
    ]
    return lines


def dry_run_training(spec: RunSpec, gpus: int) -> dict[str, Any]:
    """Say what the run would take; UserError if it would fail."""
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
    """Train and say how it ended."""
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
