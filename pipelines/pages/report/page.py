"""Writes the report: one HTML file with pictures and charts inside, all text escaped."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from pipelines.pages.kit.html import render_page
from pipelines.pages.report.view import Curve, Report

# Colorblind-safe (Okabe and Ito): blue for dense-to-sparse, vermilion for sparse only.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


def write_report(report: Report, path: Path) -> None:
    """Write the page to `path`, whole or not at all. OSError if that cannot be."""
    render_page(
        "pipelines.pages.report",
        path,
        report=report,
        validation=draw_curves(report.validation, title="Validation rSum", ylabel="rSum (of 600)"),
        losses=draw_curves(report.losses, title="Training loss", ylabel="loss"),
    )


def draw_curves(curves: Sequence[Curve], *, title: str, ylabel: str) -> Markup:
    """An SVG line chart of `curves` over training steps, labelled at the line's end."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # Same bytes for the same curves: otherwise matplotlib uses random ids and adds the date.
    with pyplot.rc_context({"svg.hashsalt": "d2s", "font.size": 10, "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=(5.6, 3.2), layout="constrained")
        for curve, colour in zip(curves, COLOURS, strict=False):
            axes.plot(curve.steps, curve.values, color=colour, label=curve.label, linewidth=1.8)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("training steps")
        axes.set_ylabel(ylabel)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        sink = io.StringIO()
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
        pyplot.close(figure)
    return _without_style(sink.getvalue())


def _without_style(text: str) -> Markup:
    """The <svg> with attributes instead of styles, which the page's policy would block."""
    svg = re.sub(r"<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return Markup(re.sub(r'style="([^"]*)"', lambda found: _as_attributes(found[1]), svg))


def _as_attributes(style: str) -> str:
    """`fill: none; stroke: #000` -> `fill="none" stroke="#000"`."""
    pairs = (part.split(":", 1) for part in style.split(";") if part.strip())
    return " ".join(f'{name.strip()}="{value.strip()}"' for name, value in pairs)
