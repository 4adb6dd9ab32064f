"""The README of a published run, generated from the run's records."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from captioner.store.row_form import RowForm
from pipelines.hub.dataset.head import Footers
from pipelines.hub.markdown import Markdown, draw_table, escape, fence, render
from pipelines.pages.review.facts import list_facts
from pipelines.pages.review.histograms import HEIGHT, draw_counts
from pipelines.pages.review.rows import RunRows
from pipelines.pages.review.view import Histogram

_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_TOLD_ELSEWHERE = ("Prompt", "Rows by status", "Texts by flag")
_EXAMPLES = 5
_BAR_LETTERS = 40
# Descriptions of the columns, in the order of data.dense.schema.CAPTION_SCHEMA.
COLUMNS = {
    "sample_id": "hash of the image's name in its source; the same in every run",
    "image_id": "the source's own id, where it has one",
    "file_name": "name of the image within its source",
    "split": "the source's own split, where it has one",
    "width": "pixels, after the EXIF orientation was applied",
    "height": "pixels, after the EXIF orientation was applied",
    "image_sha256": "SHA-256 of the image's file",
    "image_url": "address of the image, where the source has one",
    "caption": "the text; null where there is an error",
    "status": "ok, or the kind of error",
    "error": "what was wrong",
    "finish_reason": "stop, or length where the text was cut at the limit",
    "prompt_tokens": "tokens of prompt and image",
    "caption_tokens": "tokens of the text",
    "caption_words": "words of the text",
    "flags": "what to look at in the text; nothing was dropped for it",
    "repetition": "share of 4-grams of words that were said before in the text",
    "seed": "seed of the sampling of this row",
    "run_id": "the run: the same settings on the same images have the same",
    "engine": "what ran the model",
    "captions": "what people wrote about the image, where the source has it",
    "attempt": "2 where a flagged text was asked for again",
    "trimmed": "whether something was cut off: reasoning, or what follows the last full sentence",
    "text_name": "which of several texts of the image it is",
    "sample": "the number of the sample, from 0",
    "answer": "the text's values, as its JSON schema has them",
}
# Descriptions of captioner.text.quality.FLAGS.
FLAGS = {
    "empty": "no words at all",
    "short": "fewer words than a dense text has",
    "truncated": "stopped at the limit of tokens, or not at the end of a sentence",
    "loop": "says the same again and again",
    "refusal": "the model says that it cannot do it",
    "non_english": "in another language than English",
    "garbled": "holds a character that could not be read",
    "duplicate": "the same text as that of another image",
}


def write_body(
    run: Mapping[str, Any],
    rows: RunRows,
    footers: Footers,
    *,
    repo: str,
    split: str,
    form: RowForm,
    scores: Mapping[str, Any] | None,
) -> str:
    """The text below the YAML head.

    Args:
        run: run.json without local paths (`strip_run`).
        form: the form of its rows.
        scores: the result of `captioner.score.scores.summarise_scores`, if the run was scored.
    """
    flags = Counter(name for names in rows.flags for name in names)
    texts = sum(status == "ok" for status in rows.statuses)
    commands = run.get("commands") or []
    return render(
        _TEMPLATE,
        {
            "title": repo.partition("/")[2],
            "model": str(run.get("model")),
            "rows": len(rows.statuses),
            "images": len(rows.table.column("sample_id").unique()),
            "samples": form.samples,
            # Texts from a list or of a schema are not checked for flags.
            "checked": form.answer is None,
            "texts": texts,
            "flagged": sum(bool(names) for names in rows.flags),
            "repo": Markdown(repo),
            "split": Markdown(split),
            "imported": _is(run, "imported"),
            "scripted": _is(run, "scripted"),
            "importing": fence(_import_again(repo, str(run.get("model"))), "bash"),
            "commands": fence("\n".join(shlex.join(["d2s", *words]) for words in commands), "bash"),
            "recorded": bool(commands),
            "prompt": fence(str(run.get("prompt"))) if run.get("prompt") else None,
            "facts": draw_table(
                ["", ""], [fact for fact in list_facts(run) if fact[0] not in _TOLD_ELSEWHERE]
            ),
            "statuses": _count(Counter(rows.statuses), len(rows.statuses), "status"),
            "flags": _explain_flags(flags, texts) if flags else None,
            "errors": _list_errors(rows),
            "scores": scores,
            "objects": _list_objects(scores),
            "words": _draw(draw_counts("Words", rows.words, unit="words")),
            "tokens": _draw(draw_counts("Tokens", rows.tokens, unit="tokens")),
            "examples": _pick_examples(rows),
            "columns": draw_table(
                ["column", "type", "what it is"],
                [(f.name, _name_type(f.type), COLUMNS.get(f.name, "")) for f in footers.schema],
            ),
            "people": rows.table.column("captions").null_count < len(rows.statuses),
        },
    )


def _import_again(repo: str, model: str) -> str:
    out = f"dense/{repo.rpartition('/')[2]}"
    return shlex.join(["d2s", "import", f"hf:{repo}", "--out", out, "--model-name", model])


def _name_type(kind: pa.DataType) -> str:
    return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)


def _is(run: Mapping[str, Any], engine: str) -> bool:
    return (run.get("settings") or {}).get("engine") == engine


def _count(counts: Counter[str], total: int, what: str) -> Markdown:
    cells = [(name, f"{count:,}", f"{count / total:.1%}") for name, count in counts.most_common()]
    return draw_table([what, "rows", "share"], cells)


def _explain_flags(flags: Counter[str], texts: int) -> Markdown:
    cells = [
        (name, f"{count:,}", f"{count / texts:.1%}", FLAGS.get(name, ""))
        for name, count in flags.most_common()
    ]
    return draw_table(["flag", "texts", "share", "what it means"], cells)


def _list_errors(rows: RunRows) -> Markdown | None:
    places = np.flatnonzero(rows.severity == 0)
    reasons = Counter(rows.table.column("error").take(places).to_pylist()).most_common(5)
    if not reasons:
        return None
    return draw_table(["reason", "rows"], [(str(name), f"{count:,}") for name, count in reasons])


def _list_objects(scores: Mapping[str, Any] | None) -> str | None:
    chair = (scores or {}).get("chair")
    named = chair["most_hallucinated"] if chair else {}
    return ", ".join(f"{name} ({count:,})" for name, count in named.items()) or None


def _draw(histogram: Histogram | None) -> Markdown | None:
    """A histogram as a code block."""
    if histogram is None:
        return None
    labels = [bar.label.rpartition(": ") for bar in histogram.bars]
    width = max(len(label) for label, _, _ in labels)
    lines = [histogram.summary]
    for bar, (label, _, count) in zip(histogram.bars, labels, strict=True):
        letters = max(1, round(_BAR_LETTERS * bar.height / HEIGHT))
        lines.append(f"{label:>{width}}  {'#' * letters} {count}")
    return fence("\n".join(lines))


def _pick_examples(rows: RunRows) -> list[tuple[Markdown, Markdown]]:
    """(file name, text) of rows spread over the run, those without flags first."""
    texts = [n for n, status in enumerate(rows.statuses) if status == "ok"]
    clean = [n for n in texts if not rows.flags[n]]
    among: Sequence[int] = clean if len(clean) >= _EXAMPLES else texts
    count = min(_EXAMPLES, len(among))
    places = [among[len(among) * n // count] for n in range(count)]
    picked = rows.table.select(["file_name", "caption"]).take(places).to_pylist()
    return [(escape(row["file_name"]), escape(row["caption"])) for row in picked]
