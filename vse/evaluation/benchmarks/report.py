"""Results of benchmarks side by side, and in the layout of MTEB's result files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.files.atomic import write_json
from vse.evaluation.benchmarks.declaration import ENGLISH, Benchmark
from vse.evaluation.comparison import ECCV, RECALLS, Table, name_columns

_RSUM = {"rsum": "rSum"}
_COLUMNS = {
    "recall": name_columns(RECALLS) | _RSUM,
    "eccv": name_columns(ECCV),
    "cxc": name_columns(RECALLS) | _RSUM,
    "pairs": {"accuracy": "accuracy", "accuracy_of_all": "accuracy on all"},
    "winoground": {"text": "text", "image": "image", "group": "group"},
}


def tabulate(results: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table for each benchmark with one row per model; for COCO, also one for the folds."""
    tables = []
    for name in dict.fromkeys(one["benchmark"] for one in results):
        mine = [one for one in results if one["benchmark"] == name]
        columns = _COLUMNS[mine[0]["metric"]]
        columns = {key: head for key, head in columns.items() if key in mine[0]["scores"]}
        counts = f"{mine[0]['images']:,} images, {mine[0]['texts']:,} texts"
        part = f", not comparable: {mine[0]['limit']} examples" if mine[0]["partial"] else ""
        several = f", mean of {len(mine[0]['groups'])} groups" if mine[0]["groups"] else ""
        tables.append(_table(f"{name}: {counts}{several}{part}", mine, columns, "scores"))
        if folds := mine[0]["scores"].get("folds"):
            tables.append(_table(f"{name}: mean of {folds['count']} folds", mine, columns, "mean"))
    return tables


def _table(
    title: str, results: Sequence[Mapping[str, Any]], columns: Mapping[str, str], part: str
) -> Table:
    rows = []
    for one in results:
        figures = one["scores"] if part == "scores" else one["scores"]["folds"]["mean"]
        cells = [f"{figures[key]:.1f}" for key in columns]
        rows.append((one["model"], f"{one['px']} px", *cells))
    return Table(title, ("model", "input", *columns.values()), tuple(rows))


def write_mteb(result: Mapping[str, Any], benchmark: Benchmark, folder: Path) -> Path | None:
    """One result as MTEB (2.26) keeps them: FOLDER/MODEL/REVISION/TASK.json; None for a part.

    The measures are those of this package, so `mteb_version` is null; shares are fractions of 1.
    """
    if result["partial"]:
        return None
    # Values that are not percentages stay unchanged.
    groups = result["groups"] or {"default": result["scores"]}
    languages = benchmark.languages
    entries = [
        {
            **{key: _share(key, value) for key, value in figures.items() if key != "folds"},
            "main_score": _share(result["main"], figures[result["main"]]),
            "hf_subset": name,
            "languages": [languages.get(name, ENGLISH[""])],
        }
        for name, figures in groups.items()
    ]
    place = folder / re.sub(r"[/ ]", "__", result["model"]) / result["weights_sha256"]
    path = place / f"{benchmark.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {"name": result["model"], "revision": result["weights_sha256"]}
    write_json(place / "model_meta.json", meta)
    write_json(
        path,
        {
            "dataset_revision": result["revision"] or result["order_sha256"],
            "task_name": benchmark.name,
            "mteb_version": None,
            "scores": {"test": entries},
            "evaluation_time": result["seconds"],
            "kg_co2_emissions": None,
        },
    )
    return path


def _share(key: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, float) or "rank" in key:
        return value
    return round(value / 100, 6)
