"""Collects the content of the report from the files of the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import vse
from data.dense.shards import read_rows
from data.scenes.dense import audit
from data.scenes.folder import Truth, read_truths
from pipelines.pages.report.view import (
    ComparedMethod,
    Curve,
    Example,
    RankedImage,
    RankedQuery,
    Ranking,
    Report,
    Row,
    Sentence,
    Step,
)
from vse.evaluation.results import RECALLS
from vse.runs.folder import last_step, read_log

EXAMPLES, QUERIES, TOP = 6, 6, 5


def build_report(
    out: Path,
    results: Mapping[str, Any],
    steps: Mapping[str, Mapping[str, Any]],
    *,
    methods: Sequence[ComparedMethod],
) -> Report:
    """Everything on the page, from files in the demo's folder."""
    test = [truth for truth in read_truths(out / "scenes") if truth.scene.split == "test"]
    texts = dense_by_name(out / "dense" / "scenes")
    logs = {run: read_log(out / "runs" / run) for method in methods for run in method.runs}
    # Chosen at random, not by quality, and always the same for the same demo.
    rng = np.random.default_rng(results["settings"]["seed"])
    shown = [test[int(i)] for i in rng.choice(len(test), min(EXAMPLES, len(test)), replace=False)]
    return Report(
        rows=tuple(make_row(method, results, logs) for method in methods),
        oracle_t2i=results["oracle"]["t2i_r1"],
        oracle_i2t=results["oracle"]["i2t_r1"],
        facts=results["scenes"],
        captioner=results["captioner"],
        validation=tuple(
            trace(method, logs, "evaluation", ("sparse", "rsum")) for method in methods
        ),
        losses=tuple(trace(method, logs, "step", ("align",)) for method in methods),
        examples=tuple(make_example(out, truth, texts[truth.file_name]) for truth in shown),
        queries=run_queries(out, test, rng, methods),
        steps=tuple(Step(name, step["command"], step["seconds"]) for name, step in steps.items()),
        machine=results["machine"],
    )


def dense_by_name(dense: Path) -> dict[str, str]:
    """file_name -> dense text of a captioning run."""
    table = read_rows(dense, columns=["file_name", "caption"])
    names, captions = (table.column(name).to_pylist() for name in ("file_name", "caption"))
    return dict(zip(names, captions, strict=True))


def make_row(method: ComparedMethod, results: Mapping[str, Any], logs: Mapping[str, list]) -> Row:
    """A row of the table, with its number of training steps."""
    found = results[method.key]
    count = " + ".join(str(last_step(logs[run])) for run in method.runs)
    recalls = tuple(found[key] for key in RECALLS[:-1])
    return Row(method.name, f"{method.note}: {count} steps", recalls, found["rsum"])


def trace(
    method: ComparedMethod, logs: Mapping[str, list], event: str, keys: tuple[str, ...]
) -> Curve:
    """One figure of the logs of a method's runs, over all its steps."""
    steps, values, before = [], [], 0
    for run in method.runs:
        for entry in logs[run]:
            if entry["event"] == event:
                value: Any = entry
                for key in keys:
                    value = value[key]
                steps.append(before + int(entry["step"]))
                values.append(float(value))
        before += last_step(logs[run])
    return Curve(method.name, tuple(steps), tuple(values))


def make_example(out: Path, truth: Truth, text: str) -> Example:
    """A test image with its captions and dense text, with a verdict for each sentence."""
    sentences = []
    for part in text.split("."):
        if part.strip():
            judged = audit(part, truth.scene)
            sentence = part.strip() + "."
            sentences.append(Sentence(sentence, judged.true_statements == judged.statements))
    return Example(out / "scenes" / truth.file_name, truth.captions, tuple(sentences))


def run_queries(
    out: Path, test: Sequence[Truth], rng: np.random.Generator, methods: Sequence[ComparedMethod]
) -> tuple[RankedQuery, ...]:
    """Random captions of the test split and the images found by each model."""
    chosen = [
        (int(row), int(rng.integers(len(test[int(row)].captions))))
        for row in rng.choice(len(test), min(QUERIES, len(test)), replace=False)
    ]
    texts = [test[row].captions[column] for row, column in chosen]
    paths = [out / "scenes" / truth.file_name for truth in test]
    scores = {}
    for method in methods:
        embedder = vse.load(out / "runs" / method.runs[-1])
        images = embedder.encode_image(paths)
        scores[method.name] = embedder.similarity(images, embedder.encode_text(texts)).T  # (Q, N)
    return tuple(
        RankedQuery(
            texts[number],
            tuple(rank_query(name, found[number], row, paths) for name, found in scores.items()),
        )
        for number, (row, _) in enumerate(chosen)
    )


def rank_query(model: str, scores: np.ndarray, own: int, paths: Sequence[Path]) -> Ranking:
    """Rank the `scores` (N,) of one query; ties count against the model, as in `vse`."""
    rank = int((scores >= scores[own]).sum())
    top = np.argsort(-scores, kind="stable")[:TOP]
    hits = tuple(RankedImage(paths[int(i)], float(scores[i]), int(i) == own) for i in top)
    return Ranking(model, rank, hits)
