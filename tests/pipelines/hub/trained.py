"""Trained runs that the tests of publishing models share: they change nothing in them."""

from pathlib import Path

from pipelines.cli import run as d2s
from tests.vse.runs import make
from tests.vse.runs import run as train
from tests.vse.world import write_project


def write_runs(folder: Path) -> Path:
    """world/, stage 1, and stage 2 of two seeds in the current folder, which is `folder`; both
    seeds measured on the test split, the first on the validation split, too."""
    write_project(folder)
    train(make("1", out=Path("runs/stage1"), steps=2))
    for seed in (0, 1):
        spec = make("2", out=Path(f"runs/seed{seed}"), init=Path("runs/stage1"), steps=2, seed=seed)
        train(spec)
        assert d2s(["evaluate", "--model", f"runs/seed{seed}", "--folds", "2"]) == 0
    return folder
