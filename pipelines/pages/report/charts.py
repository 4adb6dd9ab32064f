"""Charts as SVG text, to stand inside the page."""

from __future__ import annotations

import io
from collections.abc import Sequence

from pipelines.pages.report.view import Curve

# Colour-blind safe (Okabe and Ito): blue for dense-to-sparse, vermilion for sparse only.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


def draw_curves(curves: Sequence[Curve], *, title: str, ylabel: str, log: bool = False) -> str:
    """An SVG line chart of `curves` over training steps, labelled at the line's end."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # Same bytes for the same curves: matplotlib salts its ids and stamps the date otherwise.
    with pyplot.rc_context({"svg.hashsalt": "d2s", "font.size": 10, "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=(5.6, 3.2), layout="constrained")
        for curve, colour in zip(curves, COLOURS, strict=False):
            axes.plot(curve.steps, curve.values, color=colour, label=curve.label, linewidth=1.8)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("training steps")
        axes.set_ylabel(ylabel)
        if log:
            axes.set_yscale("log")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        sink = io.StringIO()
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
        pyplot.close(figure)
    text = sink.getvalue()
    return text[text.index("<svg") :]
