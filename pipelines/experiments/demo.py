"""The demo: its workflow, comparison with the ground truth, results.json and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.dense.shards import read_rows
from data.environment import count_cores
from data.files.atomic import write_json
from data.scenes.folder import audit_captions, read_truths
from pipelines.console.command_line import say
from pipelines.experiments.baseline import (
    COMPARED,
    RECIPE,
    caption_scenes,
    evaluate_methods,
    make_scenes,
    train_methods,
)
from pipelines.pages.report.build import build_report
from pipelines.pages.report.page import write_report
from pipelines.workflow.machine import count_gpus, name_machine
from pipelines.workflow.steps import Workflow
from vse.evaluation.results import RECALLS
from vse.recipes.files import hash_recipe, read_recipe


def run_demo(
    *, out: Path, train: int, val: int, test: int, steps: int | None, seed: int
) -> tuple[dict[str, Any], Path]:
    """Run everything in `out`; returns the content of results.json and the path of the report."""
    settings: dict[str, Any] = {
        "train": train,
        "val": val,
        "test": test,
        "steps": steps,
        "seed": seed,
    }
    # A later version can have another recipe.
    fixed = {**settings, "recipe_sha256": hash_recipe(read_recipe(RECIPE))}
    written = ("results.json", "report.html")
    with Workflow.open(out, settings=fixed, results=written) as workflow:
        with workflow.clock():
            run_comparison(workflow, train=train, val=val, test=test, steps=steps, seed=seed)
        results = collect_results(out, workflow.seconds())
        results["seconds"]["total"] = workflow.wall_seconds
        results["settings"] = settings
        results["machine"] = name_machine()
        say("")
        say("report: pictures, curves, queries")
        report_path = out / "report.html"
        report = build_report(out, results, workflow.record["steps"], methods=COMPARED)
        write_report(report, report_path)
        write_json(out / "results.json", results)
    return results, report_path


def run_comparison(
    workflow: Workflow, *, train: int, val: int, test: int, steps: int | None, seed: int
) -> None:
    """Run every command of the demo; finished ones are skipped."""
    workflow.run(make_scenes(train=train, val=val, test=test, seed=seed))
    workflow.run(caption_scenes(seed=seed))
    cores = count_cores()
    if cores > 1 and not count_gpus():
        # Towers this small gain little from a second thread; two concurrent runs use both cores.
        workflow.run_side_by_side(*train_methods(steps=steps, seed=seed, threads=cores // 2))
    else:
        for chain in train_methods(steps=steps, seed=seed, threads=cores):
            for command in chain:
                workflow.run(command)
    for command in evaluate_methods():
        workflow.run(command)


def collect_results(out: Path, seconds: dict[str, float]) -> dict[str, Any]:
    """Collect all models' results, the oracle, the captioner's figures and seconds per step."""
    figures = json.loads((out / "scenes" / "figures.json").read_text())
    results: dict[str, Any] = {}
    for method in COMPARED:
        metrics = read_metrics(out / "runs" / method.runs[-1])
        results[method.key] = {key: metrics[key] for key in RECALLS}
    oracle = figures.pop("oracle")
    results["oracle"] = {"i2t_r1": oracle["i2t_r1"], "t2i_r1": oracle["t2i_r1"]}
    # The harder direction, so that the bound is never too optimistic.
    results["oracle_r1"] = min(oracle["i2t_r1"], oracle["t2i_r1"])
    results["captioner"] = measure_captions(out)
    figures.pop("settings")
    results["scenes"] = figures
    results["seconds"] = dict(seconds)
    return results


def measure_captions(out: Path) -> dict[str, float]:
    """Shares of true statements and of covered facts in the captioner's texts, all splits."""
    table = read_rows(out / "dense" / "scenes", columns=["file_name", "caption"])
    names, texts = (table.column(name).to_pylist() for name in ("file_name", "caption"))
    result = audit_captions(dict(zip(names, texts, strict=True)), read_truths(out / "scenes"))
    return {"true": result.true, "told": result.told, "sentences_exact": result.exact}


def read_metrics(run: Path) -> dict[str, float]:
    """The test results of `d2s evaluate` for a model."""
    return json.loads((run / "eval-test.json").read_text())
