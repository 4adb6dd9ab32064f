"""The commands of the comparison: dense text first, then sparse, beside sparse captions alone.

Both see the same pictures and take the same number of steps; `demo` and the experiment on the
size of the training set run exactly these commands.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.workflow.steps import Command

DENSE_TO_SPARSE, SPARSE_ONLY = "dense_to_sparse", "sparse_only"
# What is compared, and the run whose model is it.
COMPARED = ((DENSE_TO_SPARSE, "stage2"), (SPARSE_ONLY, "sparse"))
SPLITS = ("train", "val", "test")


def make_scenes(*, train: int, val: int, test: int, seed: int) -> Command:
    """Pictures, sparse captions and ground truth into scenes/."""
    counts = ("--train", str(train), "--val", str(val), "--test", str(test))
    return Command("scenes", ("scenes", "--out", "scenes", *counts, "--seed", str(seed)))


def caption_scenes(*, seed: int) -> Command:
    """Dense text of all scenes through vLLM, into dense/scenes/. One thread: spec of the engine."""
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
    """Stage 1 then stage 2, and the sparse-only run of as many steps as both together.

    Args:
        runs: where the three runs go.
        captions: the captions file, where it is not the one that is found.
        label: put before the steps' names, where a workflow holds several comparisons.
    """
    source = () if captions is None else ("--captions", captions)
    elsewhere = runs != "runs"

    def train(stage: str, folder: str, name: str, part: int | None) -> Command:
        arguments = ["train", "--stage", stage]
        if stage == "2" and elsewhere:
            arguments += ["--init", f"{runs}/stage1"]
        if stage != "2":
            arguments += ["--recipe", "scenes"]  # stage 2 takes over that of stage 1
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
    """Recall of both models on the test split."""

    def evaluate(model: str, name: str) -> Command:
        return Command(f"{label}evaluate {name}", ("evaluate", "--model", f"{runs}/{model}"))

    return evaluate("stage2", DENSE_TO_SPARSE), evaluate("sparse", SPARSE_ONLY)
