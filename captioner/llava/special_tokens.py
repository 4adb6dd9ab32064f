"""Tokens that mean something to a model, and that no value may bring into its prompt."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path

# Of the families that have a short name: a server's model may have no files here.
_KNOWN = (
    *(
        "<image>",
        "<video>",
        "<img>",
        "</img>",
        "<IMG_CONTEXT>",
        "[IMG]",
        "[IMG_BREAK]",
        "[IMG_END]",
    ),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>", "<fake_token_around_image>"),
    *("<global-img>", "<row_1_col_1>", "<start_of_turn>", "<end_of_turn>", "<end_of_utterance>"),
    *("<s>", "</s>", "<pad>", "<unk>", "<bos>", "<eos>", "[INST]", "[/INST]"),
)
# <|image_pad|>, <|im_end|>, <|eot_id|>
_FENCED = r"<\|[^\s|<>]{1,64}\|>"
_FILES = ("tokenizer_config.json", "tokenizer.json")


def defuse(text: str, folder: Path | None) -> str:
    """The text with a space behind the first sign of each token, so that it is none.

    `folder` has the model's files, if there are any here.
    """
    return _compile(folder).sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def count_tokens(text: str, folder: Path | None) -> int:
    """How many such tokens there are in a text."""
    return len(_compile(folder).findall(text))


@lru_cache(maxsize=8)
def _compile(folder: Path | None) -> re.Pattern[str]:
    tokens = {*_KNOWN, *(_read_tokens(folder) if folder is not None else ())}
    # Longer ones first; a single sign, or blanks, are no tokens that can be written otherwise.
    ordered = sorted((t for t in tokens if len(t.strip()) > 1), key=lambda t: (-len(t), t))
    return re.compile("|".join([_FENCED, *map(re.escape, ordered)]))


def _read_tokens(folder: Path) -> set[str]:
    """The special tokens that the tokenizer's files declare, the smaller file first."""
    for name in _FILES:
        path = folder / name
        try:
            said = json.loads(path.read_text("utf-8")) if path.is_file() else {}
            added = said.get("added_tokens_decoder") or said.get("added_tokens") or ()
            listed = added.values() if isinstance(added, dict) else added
            found = {str(one["content"]) for one in listed if one.get("special")}
        except (ValueError, TypeError, KeyError, AttributeError):
            # Whoever loads the tokenizer says what is wrong with it.
            continue
        if found:
            return found
    return set()
