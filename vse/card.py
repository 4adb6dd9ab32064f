"""The README of a published model: what it is, how to use it, what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAPER = "https://arxiv.org/abs/2503.14953"
_HEAD = """---
library_name: d2s-vse
tags:
- image-text-retrieval
- image-feature-extraction
- d2s-vse
---
"""


def write_card(config: Mapping[str, Any], results: Mapping[str, Any] | None) -> str:
    """The text of README.md.

    Args:
        config: config.json of the run.
        results: what `d2s evaluate` found of it, if that is known.
    """
    model = config["model"]
    decoder = model["decoder"]
    kind = _tell_decoder(decoder) if decoder else "none"
    lines = [
        "# D2S-VSE: image-text retrieval",
        "",
        f"Two towers that put images and texts into one space, trained as in [D2S-VSE]({PAPER}).",
        "",
        "| | |",
        "|---|---|",
        f"| stage | {config['stage']} |",
        f"| input | {model['image']['px']} x {model['image']['px']} px |",
        f"| embedding | {model['width']} values, float32, length 1 |",
        f"| decoder | {kind} |",
        f"| text | at most {model['text']['max_tokens']} tokens |",
        "",
        *_tell_results(results),
        "## Use",
        "",
        "    import vse",
        "",
        '    model = vse.load("OWNER/NAME")  # this repository',
        '    images = model.encode_image(["photo.jpg"])',
        '    texts = model.encode_text(["a red car", "two dogs"])',
        "    print(model.similarity(images, texts))",
        "",
    ]
    return _HEAD + "\n".join(lines)


def _tell_decoder(decoder: Mapping[str, Any]) -> str:
    if decoder.get("kind") == "cross_attention":
        return f"{decoder['tokens']} mask tokens, one cross-attention"
    return f"{decoder['tokens']} mask tokens, {decoder['depth']} blocks"


def read_results(folder: Path) -> dict[str, Any] | None:
    """What `d2s evaluate` left in a run's folder, or None."""
    try:
        found = json.loads((folder / "eval-test.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "rsum" in found else None


def _tell_results(results: Mapping[str, Any] | None) -> list[str]:
    if results is None:
        return []
    cells = [f"{results[f'{way}_r{cut}']:.1f}" for way in ("i2t", "t2i") for cut in (1, 5, 10)]
    return [
        "## Results",
        "",
        f"Test split: {results['images']:,} images, {results['captions']:,} captions, at "
        f"{results['px']} px.",
        "",
        "| I2T R@1 | R@5 | R@10 | T2I R@1 | R@5 | R@10 | rSum |",
        "|---|---|---|---|---|---|---|",
        f"| {' | '.join(cells)} | {results['rsum']:.1f} |",
        "",
    ]
