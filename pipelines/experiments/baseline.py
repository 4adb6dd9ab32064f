"""The commands of the comparison: dense text, then sparse captions, versus sparse captions only.

Both use the same images and number of steps; `demo` and the experiment on the size of the training
set run these commands.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.workflow.steps import Command

DENSE_TO_SPARSE, SPARSE_ONLY = "dense_to_sparse", "sparse_only"
# The compared methods, and the run with the model of each.
COMPARED = ((DENSE_TO_SPARSE, "stage2"), (SPARSE_ONLY, "sparse"))
SPLITS = ("train", "val", "test")


def make_scenes(*, train: int, val: int, test: int, seed: int) -> Command:
    """Write images, sparse captions and ground truth to scenes/."""
    counts = ("--train", str(train), "--val", str(val), "--test", str(test))
    return Command("scenes", ("scenes", "--out", "scenes", *counts, "--seed", str(seed)))


def caption_scenes(*, seed: int) -> Command:
    """Caption all scenes with vLLM into dense/scenes/, with one thread as the engine requires."""
    arguments = ("caption", "--model", "llava-scenes", "--images", "scenes", "--seed", str(seed))
    return Command("caption", arguments, threads=1)


def train_both(
    *,
    steps: int | None,
    seed: int,
    threads: int,
    runs: str = "runs",
    captions: str | None = None,
    label: str = "",
) -> tuple[Sequence[Command], Sequence[Command]]:
    """Stage 1, then stage 2, and the sparse-only run with as many steps as both together.

    Args:
        runs: the folder of the three runs.
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
            arguments += ["--recipe", "scenes"]  # stage 2 uses the recipe of stage 1
        if elsewhere:
            arguments += ["--out", f"{runs}/{folder}"]
        if part is not None:
            arguments += ["--steps", str(part)]
        arguments += [*source, "--seed", str(seed)]
        return Command(label + name, tuple(arguments), threads=threads)

    first = None if steps is None else steps // 2
    second = None if steps is None else steps - steps // 2
    return (
        (train("1", "stage1", "stage 1", first), train("2", "stage2", "stage 2", second)),
        (train("sparse", "sparse", "sparse only", steps),),
    )


def evaluate_both(*, runs: str = "runs", label: str = "") -> tuple[Command, Command]:
    """Evaluate both models on the test split."""

    def evaluate(model: str, name: str) -> Command:
        return Command(f"{label}evaluate {name}", ("evaluate", "--model", f"{runs}/{model}"))

    return evaluate("stage2", DENSE_TO_SPARSE), evaluate("sparse", SPARSE_ONLY)
