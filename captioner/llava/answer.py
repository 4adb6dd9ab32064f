"""Constrained answers: one of some choices, or JSON that conforms to a schema.

The engine enforces the constraint during generation; answers are checked nevertheless, since a
server may not enforce it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

# Keywords that every engine can enforce and a column can store, by type.
_KEYS = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "minItems", "maxItems"),
    "string": ("enum",),
    "integer": ("minimum", "maximum"),
    "number": ("minimum", "maximum"),
    "boolean": (),
}
_SAID = ("type", "title", "description")
_PYTHON = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}


@dataclass(frozen=True)
class Answer:
    """`choices`, or a `schema` as JSON text; one of the two."""

    choices: tuple[str, ...] = ()
    schema: str | None = None

    @classmethod
    def of_schema(cls, schema: Any) -> Answer:
        """From a JSON schema. Properties are required unless it lists some; others are refused.

        Raises:
            UserError: it is not the schema of an object, or uses keywords that are not supported.
        """
        whole = _normalise(schema, "schema")
        if whole["type"] != "object":
            raise UserError("schema must be of type object")
        return cls(schema=json.dumps(whole, sort_keys=False, ensure_ascii=False))

    @property
    def column(self) -> pa.DataType | None:
        """The type of the column `answer`; None for choices, which are texts."""
        return None if self.schema is None else _find_type(json.loads(self.schema))

    def keep(self, text: str) -> str:
        """The text of a valid answer.

        Raises:
            ValueError: it is not one of the choices, or does not conform to the schema; says why.
        """
        if self.schema is None:
            if text.strip() not in self.choices:
                raise ValueError(f"it is not one of the choices: {text.strip()[:60]!r}")
            return text.strip()
        try:
            value = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is not JSON: {text.strip()[-60:]!r}") from error
        _check(value, json.loads(self.schema), "it")
        return json.dumps(value, ensure_ascii=False)

    def parse(self, text: str) -> Any:
        """The value of a kept answer for its column; None for choices."""
        if self.schema is None:
            return None
        return _convert(json.loads(text), json.loads(self.schema))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _normalise(schema: Any, where: str) -> dict[str, Any]:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if not isinstance(kind, str) or kind not in _KEYS:
        raise UserError(f"{where} must have a type, one of {', '.join(_KEYS)}")
    unknown = [str(key) for key in schema if key not in (*_SAID, *_KEYS[kind])]
    if unknown:
        raise UserError(
            f"{where} has {unknown[0]!r}, which is not supported: for type {kind}, a schema can "
            f"have {', '.join(_KEYS[kind]) or 'nothing more'}"
        )
    said = dict(schema)
    if kind == "array":
        said["items"] = _normalise(said.get("items"), f"{where}.items")
    elif kind == "string" and "enum" in said:
        values = said["enum"]
        if not (isinstance(values, list) and values and all(isinstance(v, str) for v in values)):
            raise UserError(f"{where}.enum must be a list of strings")
    elif kind == "object":
        named = said.get("properties")
        if not isinstance(named, Mapping) or not named or said.get("additionalProperties"):
            raise UserError(f"{where} must list all of its properties, at least one")
        said["properties"] = {
            str(name): _normalise(below, f"{where}.{name}") for name, below in named.items()
        }
        required = said.setdefault("required", list(said["properties"]))
        if not isinstance(required, list) or not {*map(str, required)} <= {*said["properties"]}:
            raise UserError(f"{where}.required must be a list of its properties")
        said["additionalProperties"] = False
    bounds = [said[key] for key in _KEYS[kind] if key[:3] in ("min", "max") and key in said]
    if not all(isinstance(bound, int | float) and type(bound) is not bool for bound in bounds):
        raise UserError(f"{where}: its bounds must be numbers")
    least, most = (said.get(f"{m}imum", said.get(f"{m}Items")) for m in ("min", "max"))
    if least is not None and most is not None and least > most:
        raise UserError(f"{where}: nothing is from {least} to {most}")
    if kind == "array" and not all(isinstance(b, int) and b >= 0 for b in bounds):
        raise UserError(f"{where}: minItems and maxItems must be whole numbers, 0 at least")
    return said


def _find_type(schema: dict[str, Any]) -> pa.DataType:
    import pyarrow as pa

    kind = schema["type"]
    if kind == "object":
        return pa.struct([(name, _find_type(b)) for name, b in schema["properties"].items()])
    if kind == "array":
        return pa.list_(_find_type(schema["items"]))
    plain = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64()}
    return plain.get(kind, pa.bool_())


def _convert(value: Any, schema: dict[str, Any]) -> Any:
    """With floats for numbers: pyarrow refuses integers beyond 2**53 in a column of floats."""
    kind = schema["type"]
    if kind == "array":
        return [_convert(item, schema["items"]) for item in value]
    if kind == "object":
        return {name: _convert(below, schema["properties"][name]) for name, below in value.items()}
    return float(value) if kind == "number" else value


def _check(value: Any, schema: dict[str, Any], where: str) -> None:
    kind = schema["type"]
    fits = isinstance(value, _PYTHON.get(kind, int | float))
    if not fits or (type(value) is bool) != (kind == "boolean"):
        raise ValueError(f"{where} is not of type {kind}")
    if "enum" in schema and value not in schema["enum"]:
        raise ValueError(f"{where} is not one of {schema['enum']}")
    if kind == "string" and value.encode("utf-8", "ignore").decode() != value:
        raise ValueError(f"{where} contains half of a character")
    size = len(value) if kind == "array" else value
    low, high = (schema.get(f"{m}imum", schema.get(f"{m}Items")) for m in ("min", "max"))
    # Too large for a 64-bit column.
    if kind in ("integer", "number") and not -(2**63) <= value < 2**63:
        raise ValueError(f"{where} is too large")
    if (low is not None and size < low) or (high is not None and size > high):
        raise ValueError(f"{where} is out of bounds")
    if kind == "array":
        for number, item in enumerate(value):
            _check(item, schema["items"], f"{where}[{number}]")
    elif kind == "object":
        missing = [name for name in schema["required"] if name not in value]
        unknown = [name for name in value if name not in schema["properties"]]
        if missing or unknown:
            raise ValueError(f"{where} {'lacks' if missing else 'has'} {(missing + unknown)[0]!r}")
        for name, below in value.items():
            _check(below, schema["properties"][name], f"{where}.{name}")
