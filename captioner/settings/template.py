"""Prompts with placeholders: `{captions}`, `{texts.dense}`, in the syntax of Python's `format`."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from captioner.llava.special_tokens import count_tokens, defuse
from data.errors import UsageError
from data.sources import ImageRecord

_TEXTS = "texts."
# Fields that every image has, although they may be empty. Others come from its source.
COLUMNS = ("captions", "file_name", "image_id", "image_url", "sample_id", "split")


class UnfilledError(Exception):
    """A placeholder has no value; the message says which, and why."""


@dataclass(frozen=True)
class Template:
    """The parts of a prompt: literal text, each with the placeholder that follows, if any."""

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, prompt: str, *, where: str) -> Template:
        """`where` names the prompt in messages. It is not checked whether the columns exist.

        Raises:
            UsageError: unbalanced braces, or a placeholder without a name.
        """
        parts = []
        try:
            for words, place, form, conversion in string.Formatter().parse(prompt):
                if place is not None and (form or conversion):
                    raise ValueError(f"{{{place}}} cannot contain : or !")
                if place is not None and not place.strip():
                    raise ValueError(f"{{{place}}} has no name")
                parts.append((words, place))
        except ValueError as error:
            raise UsageError(
                f"{where}: the braces of the prompt cannot be read ({error}): for a literal brace, "
                "double it"
            ) from error
        return cls(tuple(parts))

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of the texts that it reads."""
        places = (place for _, place in self.parts if place and place.startswith(_TEXTS))
        return tuple(dict.fromkeys(place.removeprefix(_TEXTS) for place in places))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its placeholders for columns, with repetitions."""
        places = (place for _, place in self.parts if place)
        return tuple(place for place in places if not place.startswith(_TEXTS))

    def fill(
        self, image: ImageRecord, texts: Mapping[str, str], *, folder: Path | None = None
    ) -> str:
        """The prompt for one image, with the `texts` that it reads.

        Values cannot introduce special tokens of the model; `folder` has the model's files.

        Raises:
            UnfilledError: the image has no value in a column, or a value together with the text
                around it forms such a token.
        """
        filled, own = [], 0
        for words, place in self.parts:
            filled.append(words)
            own += count_tokens(words, folder)
            if place is not None:
                filled.append(defuse(_read(image, place, texts), folder))
        prompt = "".join(filled)
        if count_tokens(prompt, folder) != own:
            raise UnfilledError("a value makes up a special token of the model's in the prompt")
        return prompt


def _read(image: ImageRecord, place: str, texts: Mapping[str, str]) -> str:
    if place.startswith(_TEXTS):
        return texts[place.removeprefix(_TEXTS)]
    value = getattr(image, place) if place in COLUMNS else None
    text = value if isinstance(value, str) else "\n".join(value or ())
    if not text.strip():
        text = dict(image.columns or ()).get(place, "")
    if not text.strip():
        raise UnfilledError(f"the image has no {place}")
    return text
