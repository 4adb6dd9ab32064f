"""ShareGPT4V's JSON: a list of {"id", "image", "conversations"}, one answer for each image."""

import json
from pathlib import Path
from typing import Any

from captioner.imports.texts import ImportedText, TextSource, make_text
from data.errors import UserError

_ASKS, _ANSWERS = {"human", "user"}, {"gpt", "assistant"}


def read_sharegpt(path: Path) -> TextSource:
    """The answer of each conversation, tied to its image by the entry's own id and file name.

    Raises:
        UserError: no such JSON, or an entry without an image or with more than one answer.
    """
    try:
        entries = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(entries, list):
        raise UserError(f"{path} is not ShareGPT4V's JSON, which is a list of conversations")
    texts = [_read_entry(path, number, entry) for number, entry in enumerate(entries)]
    return TextSource(path.name, "sharegpt4v", texts)


def _read_entry(path: Path, number: int, entry: Any) -> ImportedText:
    where = f"entry {number}"
    try:
        image, turns = entry["image"], entry["conversations"]
        said = [(turn["from"], turn["value"]) for turn in turns]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: {where} lacks {error}") from error
    image_id = entry.get("id")
    if not isinstance(image, str) or not isinstance(image_id, str | int | None):
        raise UserError(f"{path}: {where} has an image or an id that is no text")
    answers = [value for speaker, value in said if speaker in _ANSWERS]
    asked = [value for speaker, value in said if speaker in _ASKS]
    if len(answers) != 1 or len(asked) > 1 or not isinstance(answers[0], str):
        raise UserError(
            f"{path}: {where} is a conversation of {len(said)} turns and not one description of an "
            "image"
        )
    return make_text(
        where,
        answers[0],
        image_id=None if image_id is None else str(image_id),
        file_name=image,
    )
