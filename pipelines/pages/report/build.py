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
MODELS = (("dense to sparse", "stage2"), ("sparse only", "sparse"))


def build_report(
    out: Path, results: Mapping[str, Any], steps: Mapping[str, Mapping[str, Any]]
) -> Report:
    """Everything on the page, from files in the demo's folder."""
    test = [truth for truth in read_truths(out / "scenes") if truth.scene.split == "test"]
    texts = dense_by_name(out / "dense" / "scenes")
    logs = {name: read_log(out / "runs" / name) for name in ("stage1", "stage2", "sparse")}
    first = last_step(logs["stage1"])
    # Chosen at random, not by quality, and always the same for the same demo.
    rng = np.random.default_rng(results["settings"]["seed"])
    shown = [test[int(i)] for i in rng.choice(len(test), min(EXAMPLES, len(test)), replace=False)]
    return Report(
        rows=(
            make_row(
                "dense to sparse", "dense text first, then sparse captions", results, first, logs
            ),
            make_row("sparse only", "sparse captions alone", results, 0, logs),
        ),
        oracle_t2i=results["oracle"]["t2i_r1"],
        oracle_i2t=results["oracle"]["i2t_r1"],
        facts=results["scenes"],
        captioner=results["captioner"],
        validation=(
            trace(
                logs["stage2"], "dense to sparse, stage 2", "evaluation", ("sparse", "rsum"), first
            ),
            trace(logs["sparse"], "sparse only", "evaluation", ("sparse", "rsum")),
        ),
        losses=(
            trace(logs["stage1"], "stage 1 (dense text)", "step", ("align",)),
            trace(logs["sparse"], "sparse only", "step", ("align",)),
            trace(logs["stage2"], "stage 2", "step", ("align",), first),
        ),
        examples=tuple(make_example(out, truth, texts[truth.file_name]) for truth in shown),
        queries=run_queries(out, test, rng),
        steps=tuple(Step(name, step["command"], step["seconds"]) for name, step in steps.items()),
        machine=results["machine"],
    )


def dense_by_name(dense: Path) -> dict[str, str]:
    """file_name -> dense text of a captioning run."""
    table = read_rows(dense, columns=["file_name", "caption"])
    names, captions = (table.column(name).to_pylist() for name in ("file_name", "caption"))
    return dict(zip(names, captions, strict=True))


def make_row(
    name: str, note: str, results: Mapping[str, Any], first: int, logs: Mapping[str, list]
) -> Row:
    """A row of the table, with its number of training steps."""
    found = results[name.replace(" ", "_")]
    own = last_step(logs["stage2" if first else "sparse"])
    count = f"{first} + {own} steps" if first else f"{own} steps"
    return Row(name, f"{note}: {count}", tuple(found[key] for key in RECALLS[:-1]), found["rsum"])


def trace(
    log: Sequence[Mapping[str, Any]], label: str, event: str, keys: tuple[str, ...], shift: int = 0
) -> Curve:
    """One figure of a log over steps; `shift` is the number of steps before this run."""
    steps, values = [], []
    for entry in log:
        if entry["event"] == event:
            value: Any = entry
            for key in keys:
                value = value[key]
            steps.append(int(entry["step"]) + shift)
            values.append(float(value))
    return Curve(label, tuple(steps), tuple(values))


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
    out: Path, test: Sequence[Truth], rng: np.random.Generator
) -> tuple[RankedQuery, ...]:
    """Random captions of the test split and the images found by each model."""
    chosen = [
        (int(row), int(rng.integers(len(test[int(row)].captions))))
        for row in rng.choice(len(test), min(QUERIES, len(test)), replace=False)
    ]
    texts = [test[row].captions[column] for row, column in chosen]
    paths = [out / "scenes" / truth.file_name for truth in test]
    scores = {}
    for model, run in MODELS:
        embedder = vse.load(out / "runs" / run)
        images = embedder.encode_image(paths)
        scores[model] = embedder.similarity(images, embedder.encode_text(texts)).T  # (Q, N)
    return tuple(
        RankedQuery(
            texts[number],
            tuple(rank_query(model, scores[model][number], row, paths) for model, _ in MODELS),
        )
        for number, (row, _) in enumerate(chosen)
    )


def rank_query(model: str, scores: np.ndarray, own: int, paths: Sequence[Path]) -> Ranking:
    """Rank the `scores` (N,) of one query; ties count against the model, as in `vse`."""
    rank = int((scores >= scores[own]).sum())
    top = np.argsort(-scores, kind="stable")[:TOP]
    hits = tuple(RankedImage(paths[int(i)], float(scores[i]), int(i) == own) for i in top)
    return Ranking(model, rank, hits)
