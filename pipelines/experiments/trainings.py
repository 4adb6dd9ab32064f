"""The trainings behind the rows of tables: equal ones are shared, and named by their changes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.experiments.ablation_table import Row, Table
from pipelines.workflow.jobs import Job
from pipelines.workflow.steps import Command
from vse.evaluation.results import name_results
from vse.recipes import Recipe
from vse.recipes.files import resolve


@dataclass(frozen=True)
class Training:
    """One run of a stage: its changes to the recipe as (dotted setting, value in JSON) pairs."""

    stage: str
    changes: tuple[tuple[str, str], ...] = ()
    init: Training | None = None
    steps: int = 0

    @property
    def name(self) -> str:
        """A folder name made from the changes."""
        parts = [f"stage{self.stage}" if self.stage in "12" else self.stage]
        parts += [f"{key}-{value}" for key, value in self.changes]
        name = "+".join(re.sub(r"[^\w.+-]", "", part) for part in parts)
        if self.init is not None and self.init.changes:
            name += f"-after-{self.init.name}"
        return name

    def folder(self, seed: int) -> str:
        return f"runs/{self.name}-seed-{seed}"


@dataclass(frozen=True)
class AblationSetup:
    """The settings shared by all trainings of an ablation.

    data: the options of `d2s train` for the data, without --dense.
    steps: of stage 1 and of stage 2; the baseline and the joint stage take both.
    """

    recipe: str
    raw: Mapping[str, Any]
    data: tuple[str, ...]
    dense: tuple[str, ...]
    steps: Mapping[str, int]
    split: str = "test"
    limit: int | None = None
    threads: int | None = None
    overrides: tuple[str, ...] = field(default=())  # settings by the user, for every training


def find_training(row: Row, setting: AblationSetup) -> Training:
    """The training whose model a row measures."""
    both = setting.steps["1"] + setting.steps["2"]
    if row.stage in ("sparse", "joint"):
        changes = find_changes(setting, setting.raw, row.stage, row.stage2)
        return Training(row.stage, changes, None, both)
    changes = find_changes(setting, setting.raw, "1", row.stage1)
    first = Training("1", changes, None, setting.steps["1"])
    if row.stage == "1":
        return first
    own = both if row.all_steps else setting.steps["2"]
    raw = _inherit_towers(setting, first)
    return Training("2", find_changes(setting, raw, "2", row.stage2), first, own)


def find_changes(
    setting: AblationSetup, raw: Mapping[str, Any], stage: str, wanted: Mapping[str, Any]
) -> tuple[tuple[str, str], ...]:
    """The settings that differ from those of the stage in `raw`."""
    plain = resolve(raw, stage=stage, overrides=setting.overrides)
    given = (*setting.overrides, *(f"{key}={json.dumps(value)}" for key, value in wanted.items()))
    changed = _flatten(resolve(raw, stage=stage, overrides=given))
    before = _flatten(plain)
    return tuple(
        (key, json.dumps(value)) for key, value in changed.items() if value != before.get(key)
    )


def _inherit_towers(setting: AblationSetup, first: Training) -> dict[str, Any]:
    """The recipe of stage 2: with the towers as they were in stage 1 (`vse.runs.recipe_of`)."""
    given = [*setting.overrides, *(f"{key}={value}" for key, value in first.changes)]
    towers = resolve(setting.raw, stage="1", overrides=given).to_dict()
    return {**setting.raw, **{part: towers[part] for part in ("image", "text", "width")}}


def _flatten(recipe: Recipe) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for section, part in recipe.to_dict().items():
        if isinstance(part, Mapping):
            found |= {f"{section}.{key}": value for key, value in part.items()}
        else:
            found[section] = part
    return found


def list_jobs(tables: Sequence[Table], setting: AblationSetup, seeds: Sequence[int]) -> list[Job]:
    """Every training once with its evaluation, by seed, in order of dependencies."""
    trainings: dict[Training, bool] = {}
    for table in tables:
        for row in table.rows:
            found = find_training(row, setting)
            if found.init is not None:
                trainings.setdefault(found.init, False)
            trainings[found] = True
    return [
        make_job(training, setting, seed, measured=measured)
        for seed in seeds
        for training, measured in trainings.items()
    ]


def make_job(training: Training, setting: AblationSetup, seed: int, *, measured: bool) -> Job:
    """Train, and evaluate the model if a row needs it."""
    folder = training.folder(seed)
    commands = [train_command(training, setting, seed)]
    if measured:
        commands.append(evaluate_command(training, setting, seed))
    needs = () if training.init is None else (training.init.folder(seed),)
    return Job(folder, tuple(commands), needs)


def train_command(training: Training, setting: AblationSetup, seed: int) -> Command:
    folder = training.folder(seed)
    arguments = ["train", "--stage", training.stage, *setting.data]
    if training.stage != "sparse":
        arguments += setting.dense
    if training.init is not None:
        arguments += ["--init", training.init.folder(seed)]
    else:
        arguments += ["--recipe", setting.recipe]  # stage 2 takes over that of stage 1
    arguments += ["--out", folder, "--steps", str(training.steps), "--seed", str(seed)]
    if setting.limit is not None:
        arguments += ["--limit", str(setting.limit)]
    # A collapse is a valid result here: the run continues and is measured.
    changes = (f"{key}={value}" for key, value in training.changes)
    for text in ("loss.on_collapse=warn", *setting.overrides, *changes):
        arguments += ["--set", text]
    name = f"{training.name}, seed {seed}"
    return Command(name, tuple(arguments), setting.threads, makes=f"{folder}/model.safetensors")


def evaluate_command(training: Training, setting: AblationSetup, seed: int) -> Command:
    folder = training.folder(seed)
    makes = f"{folder}/{name_results(setting.split, setting.limit)}"
    arguments = ["evaluate", "--model", folder, "--split", setting.split, "--out", makes]
    if setting.limit is not None:
        arguments += ["--limit", str(setting.limit)]
    name = f"{training.name}, seed {seed}: evaluate"
    return Command(name, tuple(arguments), setting.threads, makes=makes)
