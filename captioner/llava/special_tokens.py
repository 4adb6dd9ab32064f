"""Special tokens of models, which values must not introduce into a prompt."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path

# Of the families with short names: a server's model may have no files here.
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
    """Insert a space after the first character of each special token, which disables it.

    `folder` has the model's files, if they are on this machine.
    """
    return _compile(folder).sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def count_tokens(text: str, folder: Path | None) -> int:
    """Count the special tokens in a text."""
    return len(_compile(folder).findall(text))


@lru_cache(maxsize=8)
def _compile(folder: Path | None) -> re.Pattern[str]:
    tokens = {*_KNOWN, *(_read_tokens(folder) if folder is not None else ())}
    # Longer ones first; single characters and blanks cannot be disabled.
    ordered = sorted((t for t in tokens if len(t.strip()) > 1), key=lambda t: (-len(t), t))
    return re.compile("|".join([_FENCED, *map(re.escape, ordered)]))


def _read_tokens(folder: Path) -> set[str]:
    """The special tokens declared in the tokenizer's files, the smaller file first."""
    for name in _FILES:
        path = folder / name
        try:
            said = json.loads(path.read_text("utf-8")) if path.is_file() else {}
            added = said.get("added_tokens_decoder") or said.get("added_tokens") or ()
            listed = added.values() if isinstance(added, dict) else added
            found = {str(one["content"]) for one in listed if one.get("special")}
        except (ValueError, TypeError, KeyError, AttributeError):
            # Loading the tokenizer will report what is wrong with it.
            continue
        if found:
            return found
    return set()
