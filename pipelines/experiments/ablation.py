"""Running an ablation: data, training of all rows and seeds, and the pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.dense.run import read_run
from data.errors import UserError
from data.files.atomic import write_json
from pipelines.experiments.ablation_table import Table
from pipelines.experiments.baseline import caption_scenes, make_scenes
from pipelines.experiments.demo import measure_captions
from pipelines.experiments.results import collect
from pipelines.experiments.trainings import AblationSetup, list_jobs
from pipelines.workflow.jobs import Job, run_jobs
from pipelines.workflow.machine import name_machine
from pipelines.workflow.steps import Workflow
from vse.recipes.files import hash_recipe, read_recipe, resolve
from vse.samples.discovery import DataPaths
from vse.samples.named_texts import first_run

SCENES = {"train": 1000, "val": 200, "test": 500}


@dataclass(frozen=True)
class Ablation:
    """The settings of an ablation. `inputs` is None for the generated world."""

    out: Path
    tables: tuple[Table, ...]
    seeds: tuple[int, ...]
    recipe: str
    inputs: DataPaths | None
    overrides: tuple[str, ...] = ()
    steps: tuple[int, int] | None = None
    split: str = "test"
    limit: int | None = None
    threads: int | None = None

    def setting(self) -> AblationSetup:
        """The settings shared by all trainings; a length in epochs is resolved on the data.

        Raises:
            UserError: an unknown recipe, or an unknown setting in a row.
        """
        raw = read_recipe(self.recipe)
        return AblationSetup(
            recipe=self.recipe,
            raw=raw,
            data=self._data(),
            dense=self._dense(),
            steps=self._steps(raw),
            split=self.split,
            limit=self.limit,
            threads=self.threads,
            overrides=self.overrides,
        )

    def jobs(self) -> list[Job]:
        """Every training and evaluation, in the order in which they start."""
        return list_jobs(self.tables, self.setting(), self.seeds)

    def _data(self) -> tuple[str, ...]:
        if self.inputs is None:
            return ("--images", "scenes", "--captions", "scenes/dataset_scenes.json")
        assert self.inputs.captions is not None
        images, captions = self.inputs.images.resolve(), self.inputs.captions.resolve()
        return ("--images", str(images), "--captions", str(captions))

    def _dense(self) -> tuple[str, ...]:
        if self.inputs is None:
            return ("--dense", "dense/scenes")
        dense = self.inputs.dense
        return () if dense is None else ("--dense", str(dense.resolve()))

    def _steps(self, raw: dict[str, Any]) -> dict[str, int]:
        stages = ("1", "2")
        if self.steps is not None:
            return dict(zip(stages, self.steps, strict=True))
        recipes = {s: resolve(raw, stage=s, overrides=self.overrides) for s in stages}
        fixed = {s: recipe.optim.steps for s, recipe in recipes.items()}
        if None not in fixed.values():
            return {stage: int(steps or 0) for stage, steps in fixed.items()}
        if self.inputs is None:
            raise UserError(
                f"recipe {self.recipe} counts in epochs, but the scenes do not exist yet: specify "
                "--steps"
            )
        from vse.training.spec import join_data, measure_length

        _, corpus = join_data(recipes["1"], self.inputs, limit=self.limit)
        return {s: measure_length(recipe, s, corpus).steps for s, recipe in recipes.items()}


def run_ablation(
    ablation: Ablation, *, workers: int, gpus: int, command: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run what is missing; returns all figures, and the failed jobs with reasons.

    Raises:
        UserError: the folder contains another ablation; scenes cannot be generated; interrupted.
    """
    setting = ablation.setting()
    told = _identify(ablation, setting)
    with Workflow.open(ablation.out, settings=told, results=("results.json",)) as workflow:
        if ablation.inputs is None:
            counts = count_scenes(ablation.limit)
            workflow.run(make_scenes(**counts, seed=0))
            workflow.run(caption_scenes(seed=0))
        # Before the trainings, which take hours: it reads the run of the dense text.
        data = describe_data(ablation)
        with workflow.clock():
            failed = run_jobs(workflow, ablation.jobs(), workers=workers, gpus=gpus)
        found = {
            "command": command,
            "recipe": Path(ablation.recipe).name,
            "px": resolve(setting.raw, stage="1", overrides=setting.overrides).image.px,
            "data": data,
            "steps": dict(setting.steps),
            "seconds": workflow.wall_seconds,
            "machine": name_machine(),
            "tables": [collect_table(ablation, table, setting, workflow)
                       for table in ablation.tables],
        }  # fmt: skip
        write_json(ablation.out / "results.json", found)
    return found, failed


def collect_table(
    ablation: Ablation, table: Table, setting: AblationSetup, workflow: Workflow
) -> dict[str, Any]:
    """The table's figures, and the code that made them."""
    jobs = list_jobs([table], setting, ablation.seeds)
    names = {command.name for job in jobs for command in job.commands}
    figures = collect(ablation.out, table, setting, ablation.seeds)
    return {**figures, "code": workflow.list_code(names)}


def count_scenes(limit: int | None) -> dict[str, int]:
    """Images per split."""
    return {split: min(count, limit or count) for split, count in SCENES.items()}


def describe_data(ablation: Ablation) -> dict[str, Any]:
    """A description of the training data, without local paths."""
    if ablation.inputs is not None:
        name = ablation.inputs.images.resolve().name
        dense = ablation.inputs.dense
        model = read_run(first_run(dense)).get("model") if dense is not None else None
        told = f", dense text by {model}" if isinstance(model, str) else ""
        limit = ablation.limit
        part = "" if limit is None else f", the first {limit:,} of each split"
        return {"description": f"Images `{name}`{part}{told}.", "name": name}
    counts = count_scenes(ablation.limit)
    captioner = measure_captions(ablation.out)
    sizes = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    return {
        "description": (
            f"Generated scenes ({sizes}), dense text by llava-scenes through vLLM "
            f"({100 * captioner['true']:.1f} % of its statements are true, "
            f"{100 * captioner['told']:.1f} % of the facts covered)."
        ),
        "name": "scenes",
        "captioner": captioner,
    }


def _identify(ablation: Ablation, setting: AblationSetup) -> dict[str, object]:
    """Settings that must not change in a folder; tables and seeds can be added."""
    data: dict[str, object] = {}
    if ablation.inputs is not None:
        from vse.training.spec import hash_data

        overrides = setting.overrides
        data["data_sha256"] = hash_data(
            setting.raw, ablation.inputs, overrides=overrides, limit=ablation.limit
        )
    return {
        **data,
        "recipe": ablation.recipe,
        "recipe_sha256": hash_recipe(setting.raw),
        "data": [*setting.data, *setting.dense],
        "steps": dict(setting.steps),
        "set": list(setting.overrides),
        "limit": ablation.limit,
    }


def describe_ablation(ablation: Ablation, jobs: Sequence[Job]) -> list[str]:
    """What would be run, as lines, with every command."""
    setting = ablation.setting()
    lines = [
        f"table     {t.name}: {', '.join(row.name for row in t.rows)}" for t in ablation.tables
    ]
    steps = setting.steps
    lines += [
        f"seeds     {', '.join(map(str, ablation.seeds))}",
        f"recipe    {ablation.recipe}: {steps['1']} steps in stage 1, {steps['2']} in stage 2; "
        f"rows without stage 1 take {steps['1'] + steps['2']}",
    ]
    trained = sum(int(c.arguments[c.arguments.index("--steps") + 1])
                  for job in jobs for c in job.commands if c.arguments[0] == "train")  # fmt: skip
    lines.append(f"runs      {len(jobs)}, {trained:,} steps in all")
    return lines + [command.line for job in jobs for command in job.commands]
