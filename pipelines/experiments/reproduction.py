"""Reproducing a published row: stage 1, stage 2, evaluation, comparison with the paper."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError
from pipelines.workflow.steps import Command, Workflow
from vse.evaluation.results import name_results
from vse.recipes import build
from vse.recipes.files import hash_recipe
from vse.samples.discovery import DataPaths
from vse.training.spec import hash_data

COLUMNS = (("i2t_r1", "I2T R@1"), ("t2i_r1", "T2I R@1"), ("rsum", "rSum"))


@dataclass(frozen=True)
class PublishedFigures:
    """Published figures of one protocol: `of` the whole test split, or the mean of its folds."""

    of: str
    i2t_r1: float
    t2i_r1: float
    rsum: float

    def __post_init__(self) -> None:
        if self.of not in ("split", "folds"):
            raise UserError(f"published figures are of the split or of its folds, not {self.of!r}")


@dataclass(frozen=True)
class Published:
    """A recipe's `published`: the figures by protocol, such as COCO 5K."""

    source: str
    row: str
    figures: dict[str, Any]

    def by_protocol(self) -> dict[str, PublishedFigures]:
        """Checked."""
        return {
            name: build(PublishedFigures, values, where=f"published.figures.{name}")
            for name, values in self.figures.items()
        }


@dataclass(frozen=True)
class Reproduction:
    """The settings of a reproduction. `recipe` is a shipped name or a full path."""

    recipe: str
    out: Path
    inputs: DataPaths
    gpus: int = 1
    seed: int | None = None
    overrides: tuple[str, ...] = ()
    steps: tuple[int, int] | None = None
    limit: int | None = None

    def commands(self) -> list[Command]:
        """The three steps."""
        first, second = self.steps or (None, None)
        stage_1 = ["train", "--stage", "1", "--recipe", self.recipe, "--out", "stage1"]
        stage_2 = ["train", "--stage", "2", "--init", "stage1", "--out", "stage2"]
        weights, results = "model.safetensors", f"stage2/{name_results('test', self.limit)}"
        evaluate = ["evaluate", "--model", "stage2", "--out", results]
        evaluate += _option("--limit", self.limit)
        return [
            Command("stage 1", (*stage_1, *self._shared(first)), makes=f"stage1/{weights}"),
            Command("stage 2", (*stage_2, *self._shared(second)), makes=f"stage2/{weights}"),
            Command("evaluate", tuple(evaluate), makes=results),
        ]

    def _shared(self, steps: int | None) -> list[str]:
        inputs = self.inputs
        places = ["--images", str(inputs.images.resolve())]
        assert inputs.captions is not None
        places += ["--captions", str(inputs.captions.resolve())]
        places += _option("--dense", inputs.dense and inputs.dense.resolve())
        found = [*places, *_option("--gpus", self.gpus if self.gpus > 1 else None)]
        found += [*_option("--seed", self.seed), *_option("--steps", steps)]
        found += _option("--limit", self.limit)
        return [*found, *(word for text in self.overrides for word in ("--set", text))]


def run_reproduction(asked: Reproduction, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Run the steps that are not done, and compare the figures with the published ones.

    Args:
        raw: the recipe, unresolved.

    Raises:
        UserError: a step fails, or the folder contains another reproduction.
    """
    commands = asked.commands()
    settings: dict[str, object] = {command.name: command.line for command in commands}
    # The commands name the recipe and the data by their paths.
    trained = {key: value for key, value in raw.items() if key != "published"}
    data = hash_data(raw, asked.inputs, overrides=asked.overrides, limit=asked.limit)
    settings |= {"recipe_sha256": hash_recipe(trained), "data_sha256": data}
    with Workflow.open(asked.out, settings=settings) as workflow, workflow.clock():
        for command in commands:
            workflow.run(command)
    results = asked.out / "stage2" / name_results("test", asked.limit)
    summary = json.loads(results.read_text(encoding="utf-8"))
    return {
        "recipe": Path(asked.recipe).stem,
        "px": summary["px"],
        "images_left_out": summary["images_left_out"],
        "seconds": workflow.wall_seconds,
        "rows": compare_published(read_published(raw), summary),
    }


def read_published(raw: Mapping[str, Any]) -> Published | None:
    """The published figures in a recipe, if any."""
    values = raw.get("published")
    return None if values is None else build(Published, values, where="published")


def compare_published(
    published: Published | None, summary: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """For each protocol, published figures, ours (None if not measured), and the difference.

    Args:
        summary: the results of `d2s evaluate`.
    """
    if published is None:
        return [{"protocol": summary["split"], "published": None, "here": _pick(summary)}]
    rows = []
    for name, figures in published.by_protocol().items():
        folds = summary.get("folds")
        measured = summary if figures.of == "split" else folds and folds["mean"]
        here = _pick(measured) if measured else None
        told = {key: getattr(figures, key) for key, _ in COLUMNS}
        gap = None if here is None else {key: here[key] - told[key] for key in told}
        rows.append({"protocol": name, "published": told, "here": here, "difference": gap})
    return rows


def format_comparison(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each set of figures."""
    lines = [f"{'':<22}" + "".join(f"{name:>10}" for _, name in COLUMNS)]
    for row in rows:
        for kind in ("published", "here", "difference"):
            figures = row.get(kind)
            if figures is None and kind != "here":
                continue
            sign = "+" if kind == "difference" else ""
            cells = "".join(
                f"{'–' if figures is None else format(figures[key], f'{sign}.1f'):>10}"
                for key, _ in COLUMNS
            )
            lines.append(f"{row['protocol'] + ' ' + kind:<22}{cells}")
    return lines


def _pick(figures: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(figures[key]) for key, _ in COLUMNS}


def _option(name: str, value: object) -> list[str]:
    return [] if value is None else [name, str(value)]
