"""The commands of the demo: dense text in two stages, or in each step, or not at all.

All use the same images and number of steps.
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


def make_scenes(*, train: int, val: int, test: int, seed: int) -> Command:
    """Write images, sparse captions and ground truth to scenes/."""
    counts = ("--train", str(train), "--val", str(val), "--test", str(test))
    arguments = ("scenes", "--out", "scenes", *counts, "--seed", str(seed))
    return Command("scenes", arguments, makes="scenes/figures.json")


def caption_scenes(*, seed: int) -> Command:
    """Caption all scenes with vLLM into dense/scenes/, with one thread as the engine requires."""
    arguments = ("caption", "--model", "llava-scenes", "--images", "scenes", "--seed", str(seed))
    return Command("caption", arguments, threads=1, makes="dense/scenes/run.json")


def train_methods(
    *, steps: int | None, seed: int, threads: int
) -> tuple[Sequence[Command], Sequence[Command]]:
    """Two chains of about the same duration: both stages and the baseline; the joint stage.

    Args:
        steps: of each method, both stages together; None = the recipe's.
    """

    def train(stage: str, folder: str, name: str, part: int | None) -> Command:
        arguments = ["train", "--stage", stage]
        if stage != "2":
            arguments += ["--recipe", RECIPE]  # stage 2 uses the recipe of stage 1
        if part is not None:
            arguments += ["--steps", str(part)]
        arguments += ["--seed", str(seed)]
        return Command(name, tuple(arguments), threads, makes=f"runs/{folder}/model.safetensors")

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


def evaluate_methods() -> tuple[Command, ...]:
    """Evaluate the model of each method on the test split."""
    return tuple(
        Command(
            f"evaluate {method.name}",
            ("evaluate", "--model", f"runs/{method.runs[-1]}"),
            makes=f"runs/{method.runs[-1]}/eval-test.json",
        )
        for method in COMPARED
    )
