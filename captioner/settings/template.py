"""Prompts with places in them: `{captions}`, `{texts.dense}`, as Python's `format` writes them."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass

from data.errors import UsageError
from data.sources import ImageRecord

_TEXTS = "texts."
# What every image has a column for, if not always something in it.
COLUMNS = ("captions", "file_name", "image_id", "image_url", "sample_id", "split")


class UnfilledError(Exception):
    """A place has nothing to hold; the text says which, and why."""


@dataclass(frozen=True)
class Template:
    """The parts of a prompt: words, each with the place that follows on it (None after the last).

    `caption_column` is what the table of the images calls its captions, if they are of one.
    """

    parts: tuple[tuple[str, str | None], ...]
    caption_column: str | None = None

    @classmethod
    def parse(cls, prompt: str, *, where: str, caption_column: str | None = None) -> Template:
        """`where` names the prompt in messages.

        Raises:
            UsageError: braces that do not pair, or a place for something that no image has.
        """
        known = {*COLUMNS, *([caption_column] if caption_column else [])}
        parts = []
        try:
            for words, place, form, conversion in string.Formatter().parse(prompt):
                if place is not None and (form or conversion):
                    raise ValueError(f"{{{place}}} takes neither : nor !")
                if place is not None and not place.startswith(_TEXTS) and place not in known:
                    raise UsageError(
                        f"{where}: no column {place!r} to put into the prompt; there are "
                        f"{', '.join(sorted(known))} and texts.NAME (a brace is written twice)"
                    )
                parts.append((words, place))
        except ValueError as error:
            raise UsageError(
                f"{where}: the prompt's braces cannot be read ({error}): a brace that is no place "
                "is written twice"
            ) from error
        return cls(tuple(parts), caption_column)

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of the texts that it has places for."""
        places = (place for _, place in self.parts if place and place.startswith(_TEXTS))
        return tuple(dict.fromkeys(place.removeprefix(_TEXTS) for place in places))

    @property
    def columns(self) -> int:
        """How many places for columns of the image it has."""
        return sum(bool(place) and not str(place).startswith(_TEXTS) for _, place in self.parts)

    def fill(self, image: ImageRecord, texts: Mapping[str, str]) -> str:
        """The prompt for one image, of which `texts` are the texts that it reads.

        Raises:
            UnfilledError: the image has nothing in a column.
        """
        filled = []
        for words, place in self.parts:
            filled.append(words)
            if place is not None:
                filled.append(self._read(image, place, texts))
        return "".join(filled)

    def _read(self, image: ImageRecord, place: str, texts: Mapping[str, str]) -> str:
        if place.startswith(_TEXTS):
            return texts[place.removeprefix(_TEXTS)]
        name = "captions" if place == self.caption_column else place
        value = getattr(image, name)
        text = value if isinstance(value, str) else "\n".join(value or ())
        if not text.strip():
            raise UnfilledError(f"the image has no {place}")
        return text
