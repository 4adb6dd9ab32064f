"""The commands of the comparison: dense text in two stages, or in each step, or not at all.

All use the same images and number of steps; `demo` and the experiment on the size of the training
set run these commands.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.pages.report.view import ComparedMethod
from pipelines.workflow.steps import Command

RECIPE = "scenes-frozen"
COMPARED = (
    ComparedMethod(
        "dense to sparse", "dense text first, then sparse captions", ("stage1", "stage2")
    ),
    ComparedMethod("joint", "dense text and sparse captions in each step", ("joint",)),
    ComparedMethod("sparse only", "sparse captions alone", ("sparse",)),
)
SPLITS = ("train", "val", "test")


def make_scenes(*, train: int, val: int, test: int, seed: int) -> Command:
    """Write images, sparse captions and ground truth to scenes/."""
    counts = ("--train", str(train), "--val", str(val), "--test", str(test))
    return Command("scenes", ("scenes", "--out", "scenes", *counts, "--seed", str(seed)))


def caption_scenes(*, seed: int) -> Command:
    """Caption all scenes with vLLM into dense/scenes/, with one thread as the engine requires."""
    arguments = ("caption", "--model", "llava-scenes", "--images", "scenes", "--seed", str(seed))
    return Command("caption", arguments, threads=1)


def train_methods(
    *,
    steps: int | None,
    seed: int,
    threads: int,
    runs: str = "runs",
    captions: str | None = None,
    label: str = "",
) -> tuple[Sequence[Command], Sequence[Command]]:
    """Two chains of about the same duration: both stages and the baseline; the joint stage.

    Args:
        steps: of each method, both stages together; None = the recipe's.
        runs: the folder of the four runs.
        captions: the captions file, if it is not found by default.
        label: a prefix of the steps' names, if a workflow has several comparisons.
    """
    source = () if captions is None else ("--captions", captions)
    elsewhere = runs != "runs"

    def train(stage: str, folder: str, name: str, part: int | None) -> Command:
        arguments = ["train", "--stage", stage]
        if stage == "2" and elsewhere:
            arguments += ["--init", f"{runs}/stage1"]
        if stage != "2":
            arguments += ["--recipe", RECIPE]  # stage 2 uses the recipe of stage 1
        if elsewhere:
            arguments += ["--out", f"{runs}/{folder}"]
        if part is not None:
            arguments += ["--steps", str(part)]
        arguments += [*source, "--seed", str(seed)]
        return Command(label + name, tuple(arguments), threads=threads)

    first = None if steps is None else steps // 2
    second = None if steps is None else steps - steps // 2
    return (
        (
            train("1", "stage1", "stage 1", first),
            train("2", "stage2", "stage 2", second),
            train("sparse", "sparse", "sparse only", steps),
        ),
        (train("joint", "joint", "joint", steps),),
    )


def evaluate_methods(*, runs: str = "runs", label: str = "") -> tuple[Command, ...]:
    """Evaluate the model of each method on the test split."""
    return tuple(
        Command(
            f"{label}evaluate {method.name}", ("evaluate", "--model", f"{runs}/{method.runs[-1]}")
        )
        for method in COMPARED
    )
