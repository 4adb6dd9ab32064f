"""Dense text compared with the best baseline at the same budget, over sizes and correlations.

    python -m pipelines.experiments.fair --docs docs/experiments

For each correlation of the world, each size of the training set and each budget, every method is
tuned over the same variants, chosen by validation, on a seed that is not used afterward, and then
trained with all seeds. The budgets are equal steps, and equal seconds: as many steps as a method
completes in the time of the first one. All use early stopping by validation. Run the same command
again to continue.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.environment import count_cores
from data.errors import UserError
from data.files.atomic import replace_whole, write_json
from data.scenes.dense import describe
from data.scenes.folder import read_truths
from pipelines.console.command_line import print_text
from pipelines.experiments.baseline import RECIPE
from pipelines.experiments.fair_page import BUDGETS, format_page, write_page
from pipelines.experiments.methods import METHODS, SHARES, VARIANTS, Method, list_settings
from pipelines.experiments.results import read_run
from pipelines.experiments.script import report_errors
from pipelines.workflow.jobs import Job, run_jobs
from pipelines.workflow.machine import name_machine, name_processor
from pipelines.workflow.origin import quote_command
from pipelines.workflow.steps import Command, Workflow
from vse.recipes.files import hash_recipe, locate_recipe, locate_towers, read_recipe, resolve

TUNING_SEED = 1000
DEFAULT_METHODS = ("sparse-1", "sparse-2", "sparse-decoder", "two-25", "two-50", "joint-0", "joint")


@dataclass(frozen=True)
class Comparison:
    """The settings of a comparison. The first method determines the seconds."""

    out: Path
    methods: tuple[Method, ...]
    sizes: tuple[int, ...]
    bits: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    val: int = 1000
    test: int = 500
    patience: int = 5
    recipe: str = RECIPE
    variants: tuple[str, ...] = VARIANTS
    truth: bool = False  # dense text from the ground truth instead of the captioner
    budgets: tuple[str, ...] = BUDGETS  # equal seconds are unreliable on a busy machine
    workers: int = 1  # runs at the same time

    def __post_init__(self) -> None:
        if TUNING_SEED in self.seeds and len(self.variants) > 1:
            raise UserError(f"seed {TUNING_SEED} is that of the tuning: use other --seeds")

    @property
    def settings(self) -> dict[str, object]:
        """Settings that must not change in a folder; methods, sizes and seeds can be added.

        The first method stays: its time is that of all others.
        """
        return {
            "largest": max(self.sizes),
            "steps": self.steps,
            "val": self.val,
            "test": self.test,
            "patience": self.patience,
            "recipe": self.recipe,
            "recipe_sha256": hash_recipe(read_recipe(self.recipe)),
            "first": self.methods[0].name,
            "variants": list(self.variants),
            "truth": self.truth,
            # Seconds of other machines, or of more runs at a time, cannot be compared; seconds of
            # runs at equal steps count too, if equal seconds are added later.
            "machine": name_machine(),
            "processor": name_processor(),
            "workers": self.workers,
        }


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: the conditions shared by all methods."""

    bits: float
    size: int
    world: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "world", f"worlds/{self.bits:g}-bits")

    @property
    def name(self) -> str:
        return f"{self.bits:g}-bits/{self.size}-images"


def run_comparison(asked: Comparison) -> dict[str, Any]:
    """Run what is missing; returns every run and the chosen variants.

    Raises:
        UserError: a command failed, or the folder contains another comparison.
    """
    cells = [Cell(bits, size) for bits in asked.bits for size in asked.sizes]
    with Workflow.open(asked.out, settings=asked.settings) as workflow:
        for bits in asked.bits:
            make_world(workflow, asked, bits)
        for cell in cells:
            write_subset(asked.out / cell.world, cell.size)

        def work(jobs: list[Job]) -> None:
            failed = run_jobs(workflow, jobs, workers=asked.workers)
            if failed:
                raise UserError(next(iter(failed.values())))

        with workflow.clock():
            found = {budget: run_budget(asked, cells, budget, work) for budget in asked.budgets}
    return {
        **asked.settings,
        "recipe": Path(asked.recipe).name,
        "command": quote_command(["python", "-m", "pipelines.experiments.fair", *sys.argv[1:]]),
        "code": workflow.list_code(),
        "seeds": list(asked.seeds),
        "seconds": workflow.wall_seconds,
        "worlds": {f"{bits:g}": read_world(asked, bits) for bits in asked.bits},
        "tuning": [
            {"budget": budget, **run.collect()}
            for budget, (tuning, _) in found.items()
            for run in tuning
        ],
        **{budget: [run.collect() for run in runs] for budget, (_, runs) in found.items()},
    }


def run_budget(
    asked: Comparison, cells: Sequence[Cell], budget: str, work: Callable[[list[Job]], None]
) -> tuple[list[Run], list[Run]]:
    """Tune every method for a budget, then train it with all seeds; `work` runs the jobs.

    Returns the runs of the tuning, none with a single variant, and those of the seeds.
    """
    pairs = [(cell, method) for cell in cells for method in asked.methods]

    def list_trials(pair: tuple[Cell, Method], scale: float) -> list[Run]:
        return [Run(asked, *pair, name, TUNING_SEED, scale) for name in asked.variants]

    scales = dict.fromkeys(pairs, 1.0)
    if budget == "equal seconds":
        timed = {pair: list_trials(pair, 1.0) for pair in pairs}
        work([run.job() for runs in timed.values() for run in runs])
        scales = {pair: find_scale(asked, pair, timed) for pair in pairs}
    trials = {pair: list_trials(pair, scales[pair]) for pair in pairs}
    tuned = len(asked.variants) > 1
    if tuned:
        work([run.job() for runs in trials.values() for run in runs])
    chosen = [max(runs, key=read_val) if tuned else runs[0] for runs in trials.values()]
    runs = [replace(run, seed=seed) for run in chosen for seed in asked.seeds]
    work([run.job() for run in runs])
    return [run for own in trials.values() for run in own if tuned], runs


@dataclass(frozen=True)
class Run:
    """A method with one seed and all its trainings; `scale` multiplies its steps."""

    asked: Comparison
    cell: Cell
    method: Method
    variant: str
    seed: int
    scale: float = 1.0

    @property
    def folder(self) -> str:
        more = "" if self.scale == 1 else f"-at-{self.scale:.3f}"
        return f"runs/{self.cell.name}/{self.method.name}-{self.variant}{more}-seed-{self.seed}"

    def folders(self) -> list[str]:
        """The folders of its trainings, in order; neighbors, so that a cell shares its caches."""
        stages = [training.stage for training in self.method.trainings]
        return [f"{self.folder}-{number}-{stage}" for number, stage in enumerate(stages, start=1)]

    def job(self) -> Job:
        """Its trainings in sequence, and the evaluation of the last model."""
        commands, before = [], None
        raw, share = read_recipe(self.asked.recipe), SHARES.get(self.variant, 1.0) * self.scale
        towers = locate_towers(raw, ())
        for training, out in zip(self.method.trainings, self.folders(), strict=True):
            words = ["train", "--stage", training.stage, "--images", f"{self.cell.world}/scenes"]
            words += ["--captions", f"{self.cell.world}/captions-{self.cell.size}.json"]
            words += [] if training.stage == "sparse" else ["--dense", f"{self.cell.world}/dense"]
            words += ["--recipe", self.asked.recipe] if before is None else ["--init", before]
            steps = max(1, round(self.asked.steps * training.share * share))
            words += ["--out", out, "--steps", str(steps), "--seed", str(self.seed)]
            settings = (
                "loss.on_collapse=warn",
                f"optim.patience={self.asked.patience}",
                *towers,
                *list_settings(self.variant, resolve(raw, stage=training.stage).optim),
                *training.settings,
            )
            words += [word for text in settings for word in ("--set", text)]
            commands.append(Command(out, tuple(words), 1, makes=f"{out}/model.safetensors"))
            before = out
        last, makes = self.folders()[-1], f"{self.folders()[-1]}/eval-test.json"
        measured = ("evaluate", "--model", last, "--out", makes, "--overwrite")
        commands.append(Command(f"{last}: evaluate", measured, 1, makes=makes))
        return Job(self.folder, tuple(commands))

    def collect(self) -> dict[str, Any]:
        """Its results: recalls, total steps and seconds, validation rSum."""
        found = [read_run(self.asked.out / folder) for folder in self.folders()]
        last = found[-1]
        return {
            "bits": self.cell.bits,
            "size": self.cell.size,
            "method": self.method.name,
            "variant": self.variant,
            "seed": self.seed,
            **last,
            **{key: sum(one[key] for one in found) for key in ("steps", "seconds")},
        }


def make_world(workflow: Workflow, asked: Comparison, bits: float) -> None:
    """Generate images, captions and dense text for one correlation and the largest size."""
    world, size = Cell(bits, 0).world, max(asked.sizes)
    scenes = ["scenes", "--out", f"{world}/scenes", "--train", str(size)]
    scenes += ["--val", str(asked.val), "--test", str(asked.test)]
    if bits:
        scenes += ["--correlation", f"{bits:g}"]
    made = f"{world}/scenes/figures.json"
    workflow.run(Command(f"scenes, {bits:g} bits", tuple(scenes), makes=made))
    place = ("--images", f"{world}/scenes", "--out", f"{world}/dense")
    told: tuple[str, ...] = ("caption", "--model", "llava-scenes", *place)
    if asked.truth:
        rows = (
            {"file_name": truth.file_name, "text": describe(truth.scene)}
            for truth in read_truths(asked.out / world / "scenes")
        )
        with replace_whole(asked.out / world / "truth.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        told = ("import", f"{world}/truth.jsonl", "--model-name", "ground truth", *place)
    workflow.run(Command(f"dense text, {bits:g} bits", told, 1, makes=f"{world}/dense/run.json"))


def write_subset(out: Path, size: int) -> None:
    """captions-SIZE.json: the Karpathy file with only the first `size` training images."""
    dataset = json.loads((out / "scenes" / "dataset_scenes.json").read_text())
    train = [image for image in dataset["images"] if image["split"] == "train"][:size]
    rest = [image for image in dataset["images"] if image["split"] != "train"]
    write_json(out / f"captions-{size}.json", {**dataset, "images": train + rest})


def read_world(asked: Comparison, bits: float) -> dict[str, Any]:
    """The mutual information and the oracle of a world, from the ground truth."""
    path = asked.out / Cell(bits, 0).world / "scenes" / "figures.json"
    figures = json.loads(path.read_text(encoding="utf-8"))
    return {key: figures[key] for key in ("bits", "oracle", "share_untold_by_five")}


def read_val(run: Run) -> float:
    """The validation rSum of the saved weights."""
    value = read_run(run.asked.out / run.folders()[-1])["val_rsum"]
    return float("-inf") if value is None else float(value)


def find_scale(
    asked: Comparison, pair: tuple[Cell, Method], timed: Mapping[tuple[Cell, Method], Sequence[Run]]
) -> float:
    """The factor of a method's steps that matches the first method's seconds.

    It is based on seconds per step of the tuning runs at equal steps, and therefore independent of
    early stopping. Stored in scales.json, so that a resumed comparison has the same runs.
    """
    path = asked.out / "scales.json"
    kept: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    cell, method = pair
    key, first = f"{cell.name}/{method.name}", asked.methods[0]
    if key not in kept:
        kept[key] = 1.0
        if method != first:
            kept[key] = round(measure_pace(timed[cell, first]) / measure_pace(timed[pair]), 3)
        write_json(path, kept)
    return kept[key]


def measure_pace(runs: Sequence[Run]) -> float:
    """Mean seconds per step of a method, over all its trainings by their shares.

    Startup is not included: caches that runs share, and the teacher's embeddings of stage 2.
    """
    each = [
        training.share * one["seconds"] / one["steps"]
        for run in runs
        for training, place in zip(run.method.trainings, run.folders(), strict=True)
        for one in (read_run(run.asked.out / place),)
    ]
    return sum(each) / len(runs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("artifacts/fair"))
    parser.add_argument("--docs", type=Path, help="folder for fair_NAME.md and .json")
    parser.add_argument("--name", help="of the page; by default, that of the recipe")
    parser.add_argument(
        "--methods", nargs="+", choices=list(METHODS), default=list(DEFAULT_METHODS)
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 4000, 16000])
    parser.add_argument("--bits", type=float, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=600, help="of a method, all its trainings")
    parser.add_argument("--val", type=int, default=1000, help="validation images")
    parser.add_argument("--test", type=int, default=500, help="test images")
    parser.add_argument("--patience", type=int, default=5, help="evaluations without a gain")
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--truth", action="store_true", help="dense text without a captioner")
    parser.add_argument(
        "--budgets", nargs="+", choices=BUDGETS, default=list(BUDGETS), help="by default, both"
    )
    parser.add_argument("--workers", type=int, default=count_cores())
    given = vars(parser.parse_args())
    docs, name = (given.pop(key) for key in ("docs", "name"))
    given["methods"] = [METHODS[name] for name in given["methods"]]
    with report_errors("fair"):
        given["recipe"] = locate_recipe(given["recipe"])
        lists = {k: tuple(dict.fromkeys(v)) for k, v in given.items() if isinstance(v, list)}
        found = run_comparison(Comparison(**{**given, **lists}))
    for folder in filter(None, (given["out"], docs)):
        write_page(found, folder, name=name)
    print_text("\n".join(format_page(found)) + "\n")


if __name__ == "__main__":
    main()
