"""The form of a run's rows: one text per image or samples of a named one, plain or typed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from captioner.llava.answer import Answer
from captioner.store.journal import make_key
from data.dense.schema import CAPTION_SCHEMA


@dataclass(frozen=True)
class RowForm:
    """`name` is the name of the text among several, None if it is the only one."""

    name: str | None = None
    samples: int = 1
    answer: Answer | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> RowForm:
        """From the settings of a run."""
        about = settings.get("text")
        if about is None:
            return cls()
        choices, schema = about.get("choices"), about.get("schema")
        answer = Answer(tuple(choices or ()), schema) if choices or schema else None
        return cls(about["name"], about["samples"], answer)

    @property
    def schema(self) -> pa.Schema:
        """The columns of a shard: the common ones, and those of samples and typed answers."""
        more = []
        if self.samples > 1:
            more = [pa.field("text_name", pa.string()), pa.field("sample", pa.int32())]
        if self.answer is not None and self.answer.column is not None:
            more.append(pa.field("answer", self.answer.column))
        return pa.schema([*CAPTION_SCHEMA, *more])

    @property
    def numbers(self) -> tuple[int | None, ...]:
        """The sample numbers of an image; None for a single one."""
        return (None,) if self.samples == 1 else tuple(range(self.samples))

    def repeat(self, ids: Iterable[str]) -> list[str]:
        """The sample_ids of the rows of these images."""
        return [name for name in ids for _ in self.numbers]

    def list_keys(self, ids: Iterable[str]) -> list[str]:
        """The keys of the outcomes of these images, in row order."""
        return [make_key(name, sample) for name in ids for sample in self.numbers]

    def name_request(self, key: str) -> str:
        """The unique name of an outcome's request, from which its seed is derived."""
        return key if self.name is None else f"{self.name}.{key}"
