"""Writes the review as one HTML file: pictures, style and script inside, all text escaped."""

from __future__ import annotations

from pathlib import Path

from pipelines.pages.kit.html import render_page
from pipelines.pages.review.histograms import HEIGHT, WIDTH
from pipelines.pages.review.rows import SEVERITIES
from pipelines.pages.review.view import SORTS, Review

_TONES = {1: "grave", 2: "warn"}


def write_page(review: Review, path: Path) -> None:
    """Write the page to `path` atomically. Raises OSError."""
    render_page(
        "pipelines.pages.review",
        path,
        filters={"tone": choose_tone},
        review=review,
        sorts={k: label for k, label in SORTS.items() if k != "score" or review.scored},
        chart=(WIDTH, HEIGHT),
    )


def choose_tone(flag: str) -> str:
    """The severity of a flag's style: grave, warn or mild."""
    return _TONES.get(SEVERITIES.get(flag, 0), "mild")
