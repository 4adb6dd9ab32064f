"""The columns and metadata of a file of embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pyarrow as pa

from data.errors import UserError
from vse.runs.models import ModelIdentity

FORMAT = "1"
KINDS = ("images", "texts")
STORED = {"float32": pa.float32(), "float16": pa.float16()}
_PREFIX = "d2s."


def make_schema(*, width: int, stored: str) -> pa.Schema:
    """Columns for embeddings of `width` values, each stored as float32 or float16."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("image_id", pa.string()),
            pa.field("file_name", pa.string()),
            pa.field("text", pa.string()),
            # Location of the image in its source, for pages that show it; see data.sources.record.
            pa.field("locator", pa.binary()),
            pa.field(
                "embedding",
                pa.list_(pa.field("element", STORED[stored], nullable=False), width),
                nullable=False,
            ),
        ]
    )


@dataclass(frozen=True)
class IndexInfo:
    """What the embeddings are of and made with.

    `given` is what the user named, `source` where its images are (see `build.record_source`),
    `listing` a hash of what was found there. `precision` is that of the computation, `stored` that
    of the file. All vectors have length 1.
    """

    kind: str
    given: str
    listing: str
    model: str
    weights_sha256: str
    fingerprint: str
    px: int
    width: int
    precision: str = "float32"
    stored: str = "float32"
    source: Mapping[str, Any] = field(default_factory=dict)
    normalised: bool = True
    format: str = FORMAT

    @classmethod
    def of(cls, model: ModelIdentity, **about: Any) -> IndexInfo:
        """For embeddings by this model."""
        values = asdict(model)
        return cls(model=values.pop("name"), **values, **about)

    @property
    def schema(self) -> pa.Schema:
        return make_schema(width=self.width, stored=self.stored)

    def to_metadata(self) -> dict[str, str]:
        """Metadata for the schema of the file; values other than strings are JSON."""
        return {
            f"{_PREFIX}{key}": value if isinstance(value, str) else json.dumps(value)
            for key, value in asdict(self).items()
        }

    def differences(self, other: IndexInfo) -> list[str]:
        """The differences between two files' vectors, except the location of images."""
        free = {"model", "given", "source"}
        names = [entry.name for entry in fields(self) if entry.name not in free]
        changed = [name for name in names if getattr(self, name) != getattr(other, name)]
        here, there = _describe_images(self.source), _describe_images(other.source)
        return changed + [name for name in here if here[name] != there.get(name, here[name])]


def _describe_images(source: Mapping[str, Any]) -> dict[str, Any]:
    """What decides which images are at the addresses of a source, as far as it is recorded."""
    options = source.get("options", {})
    known = {
        "version of the files": options.get("stamps"),
        "revision": options.get("revision"),
        "split": options.get("split"),
        "config": options.get("config"),
        "image column": options.get("columns", {}).get("image"),
    }
    return {name: value for name, value in known.items() if value is not None}


def read_info(schema: pa.Schema, *, where: str) -> IndexInfo:
    """The inverse of `to_metadata`.

    Raises:
        UserError: the file was not written by d2s, or has another version.
    """
    metadata = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
    try:
        values: dict[str, Any] = {
            entry.name: metadata[_PREFIX + entry.name] for entry in fields(IndexInfo)
        }
        for name in ("px", "width", "source", "normalised"):
            values[name] = json.loads(values[name])
        info = IndexInfo(**values)
        sound = info.format == FORMAT and schema.equals(info.schema)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{where} contains no embeddings of d2s: specify a file written by `d2s embed`"
        ) from error
    if not sound:
        raise UserError(
            f"{where} is of another version of d2s: create it again with `d2s embed --model "
            f"{info.model}`"
        )
    return info
