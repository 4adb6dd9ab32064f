"""Measure `llava-scenes` on held-out scenes, with the engine and command that users run.

    python -m captioner.llava_scenes.check                     # prints the figures
    python -m captioner.llava_scenes.check --card              # and writes them to the model card

The scenes are from the split `captioner_test`; decoding is greedy, so the figures are reproducible.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from captioner.run import caption
from data.dense.shards import read_rows
from data.environment import SHIPPED_MODELS
from data.scenes.dense import Audit
from data.scenes.folder import audit_captions, read_truths, write_scenes

SCENES = 500


def check(model: Path, *, count: int, seed: int) -> Audit:
    """Caption `count` held-out scenes with `model` and compare the texts with the ground truth."""
    with tempfile.TemporaryDirectory() as folder:
        scenes, dense = Path(folder) / "scenes", Path(folder) / "dense"
        write_scenes(scenes, counts={"captioner_test": count}, seed=seed)
        caption(model=str(model), images=scenes, out=dense, temperature=0.0)
        table = read_rows(dense, columns=["file_name", "caption"])
        texts = dict(
            zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True)
        )
        return audit_captions(texts, read_truths(scenes))


def describe_audit(result: Audit, *, count: int, seed: int) -> dict[str, object]:
    """The figures for the card and `--json`; shares between 0 and 1."""
    return {
        "split": "captioner_test",
        "scenes": count,
        "seed": seed,
        "true": round(result.true, 4),
        "told": round(result.told, 4),
        "sentences_exact": round(result.exact, 4),
        "statements": result.statements,
        "facts": result.facts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=SHIPPED_MODELS["llava-scenes"])
    parser.add_argument("--count", type=int, default=SCENES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--card", action="store_true", help="write README.md beside the weights")
    settings = parser.parse_args()
    result = check(settings.model, count=settings.count, seed=settings.seed)
    figures = describe_audit(result, count=settings.count, seed=settings.seed)
    print(json.dumps(figures, indent=2))
    if settings.card:
        from captioner.llava_scenes.card import write_card

        write_card(settings.model, figures)


if __name__ == "__main__":
    main()
