"""The results of `d2s evaluate` as lines of text, the input size beside every figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WAYS = (("i2t", "image to text"), ("t2i", "text to image"))
_RECALLS = {"r1": "R@1", "r5": "R@5", "r10": "R@10"}
_ECCV = {"map_at_r": "mAP@R", "r_precision": "R-Prec", "r1": "R@1"}


def format_table(summary: Mapping[str, Any]) -> list[str]:
    """Recalls of the whole split, then what else was measured: folds, ECCV Caption, CxC."""
    lines = [
        f"{summary['split']}: {summary['images']:,} images, {summary['captions']:,} captions, "
        f"{summary['px']} px",
        *_format_whole(summary),
    ]
    if summary["folds"]:
        lines += ["", *_format_folds(summary["folds"])]
    if summary["eccv_caption"]:
        lines += ["", *_format_known("ECCV Caption", _ECCV, summary["eccv_caption"])]
    if cxc := summary["cxc"]:
        lines += ["", *_format_known("CxC", _RECALLS, cxc), _row("rSum", cxc["px"], [cxc["rsum"]])]
    return lines


def _format_whole(summary: Mapping[str, Any]) -> list[str]:
    px = summary["px"]
    lines = [_head("", [*_RECALLS.values(), "median", "mean rank"])]
    for way, name in _WAYS:
        cells = [summary[f"{way}_{key}"] for key in _RECALLS]
        ranks = [summary[f"{way}_median_rank"], summary[f"{way}_mean_rank"]]
        lines.append(_row(name, px, [*cells, *ranks]))
    return [*lines, _row("rSum", px, [summary["rsum"]])]


def _format_folds(folds: Mapping[str, Any]) -> list[str]:
    px, mean, deviation = folds["px"], folds["mean"], folds["deviation"]
    sizes = sorted(set(folds["images"]))
    size = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    lines = [
        f"mean of {folds['count']} folds of {size} images ± deviation",
        _head("", _RECALLS.values(), width=14),
    ]
    for way, name in _WAYS:
        keys = [f"{way}_{key}" for key in _RECALLS]
        cells = [f"{mean[key]:.1f} ± {deviation[key]:.1f}" for key in keys]
        lines.append(_start(name, px) + "".join(f"{cell:>14}" for cell in cells))
    total = f"{mean['rsum']:.1f} ± {deviation['rsum']:.1f}"
    return [*lines, f"{_start('rSum', px)}{total:>14}"]


def _format_known(title: str, columns: Mapping[str, str], found: Mapping[str, Any]) -> list[str]:
    counts = ", ".join(
        f"{found[f'{way}_queries']:,} {kind} with {found[f'{way}_answers']:,} right answers"
        for way, kind in (("i2t", "images"), ("t2i", "captions"))
    )
    lines = [f"{title}: {counts}"]
    if not found["complete"]:
        missing = sum(found[f"{way}_queries_missing"] for way, _ in _WAYS)
        answers = sum(found[f"{way}_answers_missing"] for way, _ in _WAYS)
        lines.append(
            f"not comparable: {missing:,} queries and {answers:,} right answers are not here"
        )
    lines.append(_head("", columns.values()))
    for way, name in _WAYS:
        lines.append(_row(name, found["px"], [found[f"{way}_{key}"] for key in columns]))
    return lines


def _head(name: str, columns: Any, *, width: int = 10) -> str:
    return f"{name:<16}{'input':>8}" + "".join(f"{column:>{width}}" for column in columns)


def _row(name: str, px: int, figures: list[float]) -> str:
    return _start(name, px) + "".join(f"{figure:>10.1f}" for figure in figures)


def _start(name: str, px: int) -> str:
    return f"{name:<16}{f'{px} px':>8}"
