"""The results of `d2s evaluate` in a model's folder, if they belong to the model as it is now."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.files.atomic import write_json
from vse.runs.config import CONFIG, MODEL, TOKENIZER
from vse.runs.models import ModelIdentity, identify_model

RECALLS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum")
_COUNTS = ("images", "captions", "px")
_PART = re.compile(r"-first-\d+\.json$")


@dataclass(frozen=True)
class Results:
    """Summaries by (data set, split), and for each excluded file one line with the reason."""

    found: Mapping[tuple[str, str], dict[str, Any]]
    notes: tuple[str, ...]


def read_results(folder: Path, model: ModelIdentity | None = None) -> Results:
    """Read every `eval-*.json` in a model's folder, except partial results (`--limit`).

    `model` is the one whose results are wanted; by default the one in the folder now.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    notes = []
    files = [path for path in sorted(folder.glob("eval-*.json")) if not _PART.search(path.name)]
    if not files:
        return Results({}, ())
    identity = model or identify_model(folder, name=str(folder))
    for path in files:
        summary, wrong = _read(path, identity)
        if summary is not None:
            key = (summary["dataset"], summary["split"])
            if key not in found:
                found[key] = summary
                continue
            wrong = "another file has results of the same data set and split"
        notes.append(f"{path} is left out: {wrong}")
    return Results(found, tuple(notes))


def name_results(split: str, limit: int | None) -> str:
    """The file of results; those of the first `limit` images are not those of the split."""
    return f"eval-{split}.json" if limit is None else f"eval-{split}-first-{limit}.json"


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """Write the summary as readable JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, summary)


def _read(path: Path, model: ModelIdentity) -> tuple[dict[str, Any] | None, str]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None, "it cannot be read as JSON"
    again = "measure them again with `d2s evaluate`"
    if not isinstance(summary, dict) or not _is_whole(summary):
        return None, f"it does not contain the results of one model; {again}"
    if "weights_sha256" not in summary or "dataset" not in summary:
        return None, f"it does not say which weights and data it belongs to; {again}"
    # Older results do not record it, but their file names do, unless given with --out.
    if summary.get("limit") is not None:
        return None, f"its figures are of the first {summary['limit']} images alone; {again}"
    if summary["weights_sha256"] != model.weights_sha256:
        return None, f"its figures belong to other weights than this {MODEL}; {again}"
    # Older results have no fingerprint.
    if summary.get("fingerprint", model.fingerprint) != model.fingerprint:
        return None, f"its figures belong to another {CONFIG} or {TOKENIZER}; {again}"
    return summary, ""


def _is_whole(summary: Mapping[str, Any]) -> bool:
    numbers = [summary.get(key) for key in (*RECALLS, *_COUNTS)]
    texts = [summary.get("split"), summary.get("dataset", "")]
    if not {"folds", "eccv_caption", "cxc"} <= set(summary):
        return False
    return all(type(one) in (int, float) for one in numbers) and all(
        isinstance(one, str) for one in texts
    )
