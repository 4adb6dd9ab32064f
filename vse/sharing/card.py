"""The README of a published model: description, results, how to use and train it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from data.escaping import escape_markdown
from vse.evaluation.comparison import Table, make_tables, write_markdown
from vse.evaluation.results import RECALLS
from vse.evaluation.retrieval import CUTS
from vse.model.backbones.origins import list_origins

CARD = "README.md"
PAPER = "https://arxiv.org/abs/2503.14953"
_LIBRARY = "d2s-vse"
_TAGS = ["image-text-retrieval", "image-feature-extraction", _LIBRARY]
# The Hub's names of the two tasks.
_TASKS = {
    "i2t": ("image-to-text-retrieval", "Image-to-text retrieval"),
    "t2i": ("text-to-image-retrieval", "Text-to-image retrieval"),
}
# For the model-index: task, its name, metric, its name.
_FIGURES = {
    f"{way}_r{cut}": (*task, f"recall_at_{cut}", f"R@{cut}")
    for way, task in _TASKS.items()
    for cut in CUTS
} | {"rsum": ("image-text-retrieval", "Image-text retrieval", "rsum", "rSum")}


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of each of `RECALLS` over runs with different seeds."""

    seeds: tuple[int, ...]
    mean: Mapping[str, float]
    deviation: Mapping[str, float]


@dataclass(frozen=True)
class Measured:
    """Results of `d2s evaluate` on one split of a data set, and over seeds if available."""

    summary: Mapping[str, Any]
    spread: Spread | None = None


def write_card(
    config: Mapping[str, Any],
    results: Sequence[Measured],
    *,
    repo: str | None = None,
    licence: str | None = None,
    datasets: Sequence[str] = (),
    dense: str | None = None,
    commands: Sequence[str] = (),
) -> str:
    """The text of README.md.

    Args:
        config: config.json of the run.
        repo: OWNER/NAME on the Hub, if known.
        licence: the Hub's name of it.
        datasets: names of data sets of the Hub that the model was trained on.
        dense: the captioner of the dense text.
        commands: for training such a model again.
    """
    entries = [entry for one in results for entry in _index(one)]
    name = repo.rpartition("/")[2] if repo else None
    head = ModelCardData(
        library_name=_LIBRARY,
        license=licence,
        base_model=config.get("base_models") or list_origins(config.get("recipe") or {}) or None,
        datasets=list(datasets) or None,
        tags=_TAGS,
        model_name=(name or _LIBRARY) if entries else None,
        eval_results=entries or None,
    )
    lines = [
        f"# {escape_markdown(name or 'D2S-VSE: image-text retrieval')}",
        "",
        "Two towers that put images and texts into one space, for image-text retrieval, trained as "
        f"in [D2S-VSE]({PAPER}).",
        "",
        *_model_lines(config),
        *_result_lines(results, own=(config.get("data") or {}).get("dataset")),
        "## Use",
        "",
        "```python",
        "import vse",
        "",
        f'model = vse.load("{repo or "OWNER/NAME"}")',
        'images = model.encode_image(["photo.jpg"])',
        'texts = model.encode_text(["a red car", "two dogs"])',
        "print(model.similarity(images, texts))",
        "```",
        "",
        "How images and texts are prepared, for other programs: `preprocessing.json`.",
        "",
        *_training_lines(config, dense, commands),
    ]
    return f"---\n{head.to_yaml()}\n---\n" + "\n".join(lines)


def is_own_card(text: str) -> bool:
    """Whether a README.md was written by `write_card`."""
    head = text.removeprefix("---\n").partition("\n---\n")[0]
    return f"library_name: {_LIBRARY}" in head.splitlines()


def _model_lines(config: Mapping[str, Any]) -> list[str]:
    model = config["model"]
    decoder, px = model["decoder"], model["image"]["px"]
    return _tabulate(
        {
            "stage": str(config["stage"]),
            "input": f"{px} x {px} px, the image stretched to it",
            "embedding": f"{model['width']} values, float32, length 1",
            "decoder": _describe_decoder(decoder) if decoder else "none",
            "text": f"at most {model['text']['max_tokens']} tokens",
        }
    )


def _describe_decoder(decoder: Mapping[str, Any]) -> str:
    if decoder.get("kind") == "cross_attention":
        return f"{decoder['tokens']} mask tokens, one cross-attention"
    depth = decoder["depth"]
    return f"{decoder['tokens']} mask tokens, {depth} block{'' if depth == 1 else 's'}"


def _index(measured: Measured) -> list[EvalResult]:
    """The entries of the model-index: this model's figures, and those over seeds."""
    summary, spread = measured.summary, measured.spread
    parts: list[tuple[str | None, Mapping[str, Any], Spread | None]] = [(None, summary, spread)]
    if folds := summary["folds"]:
        parts.append((f"mean of {folds['count']} folds", folds["mean"], None))
    found = []
    for config, figures, over in parts:
        about: dict[str, Any] = {
            "dataset_type": re.sub(r"[^\w.-]+", "-", summary["dataset"]).strip("-") or "unnamed",
            "dataset_name": summary["dataset"],
            "dataset_split": summary["split"],
            "dataset_config": config,
            "dataset_args": {"input_px": summary["px"], "images": summary["images"]},
        }
        for key, (task, name, metric, label) in _FIGURES.items():
            found.append(
                EvalResult(
                    task_type=task,
                    task_name=name,
                    metric_type=metric,
                    metric_name=label,
                    metric_value=round(float(figures[key]), 4),
                    metric_args=_seed_arguments(over, key),
                    **about,
                )
            )
    return found


def _seed_arguments(spread: Spread | None, key: str) -> dict[str, Any] | None:
    if spread is None:
        return None
    mean, deviation = round(spread.mean[key], 4), round(spread.deviation[key], 4)
    return {"seeds": list(spread.seeds), "mean": mean, "deviation": deviation}


def _result_lines(results: Sequence[Measured], *, own: str | None) -> list[str]:
    """Tables of all results; `own` is the data set that selected the weights, None if unknown."""
    if not results:
        return []
    lines = [
        "## Results",
        "",
        (
            "Recall in percent: R@K in both directions, and the sum of the six. Ties count against "
            "the model."
        ),
        "",
    ]
    for measured in results:
        lines += [write_markdown(_compare(measured)), ""]
        summary = measured.summary
        if summary.get("picked_on") == summary["split"] and own in (None, summary["dataset"]):
            lines += [
                "The weights were selected by their rSum on this split: these figures are "
                "optimistic.",
                "",
            ]
        if seen := summary.get("images_trained_on"):
            lines += [
                f"The model was trained on {seen:,} of these images: these figures are optimistic.",
                "",
            ]
        if left_out := summary.get("images_left_out"):
            lines += [f"{left_out:,} images of the split were excluded.", ""]
    return lines


def _compare(measured: Measured) -> list[Table]:
    """This model's row, followed by that of all seeds."""
    spread = measured.spread
    first, *rest = make_tables([{**measured.summary, "model": "this model"}])
    if spread is None:
        return [first, *rest]
    seeds = ", ".join(map(str, spread.seeds))
    cells = [f"{spread.mean[key]:.1f} ± {spread.deviation[key]:.1f}" for key in RECALLS]
    row = (f"mean ± deviation of seeds {seeds}", first.rows[0][1], *cells)
    return [replace(first, rows=(*first.rows, row)), *rest]


def _training_lines(
    config: Mapping[str, Any], dense: str | None, commands: Sequence[str]
) -> list[str]:
    recipe, data = config.get("recipe") or {}, config.get("data") or {}
    optim = recipe.get("optim") or {}
    counts = data.get("split_counts") or {}
    facts = {
        "data": data.get("dataset"),
        "sparse text": data.get("sparse_side"),
        "images": ", ".join(f"{count:,} {split}" for split, count in counts.items()),
        "dense text": dense,
        "image tower": (recipe.get("image") or {}).get("name"),
        "text tower": (recipe.get("text") or {}).get("name"),
        "batch": optim.get("batch_size"),
        "seed": optim.get("seed"),
        "versions": ", ".join(f"{k} {v}" for k, v in (config.get("versions") or {}).items()),
    }
    known = {name: str(value) for name, value in facts.items() if value not in (None, "")}
    lines = ["## Training", "", *_tabulate(known)]
    if commands:
        text = "With the recipes in this repository, which contain every setting:"
        lines += [text, "", "```bash", *commands, "```", ""]
    return lines if known or commands else []


def _tabulate(facts: Mapping[str, str]) -> list[str]:
    rows = [f"| {name} | {escape_markdown(text)} |" for name, text in facts.items()]
    return ["| | |", "|---|---|", *rows, ""]
