"""Building a dataclass from plain values; errors name unknown keys, wrong types and near misses.

A section checks its own values with `require`, `one_of` and the `refuse_` functions.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from data.errors import UserError

T = TypeVar("T")
UNIONS = (typing.Union, types.UnionType)


def build(cls: type[T], values: dict[str, Any], *, where: str = "", what: str = "the recipe") -> T:
    """Build the dataclass `cls` from plain values, checking keys and types recursively.

    Args:
        where: dotted name of the section, for messages.
        what: the name of the whole in messages.

    Raises:
        UserError: an unknown key (naming the nearest), a wrong type, or a value out of range.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where or what} must be a mapping, not {values!r}")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    made: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in known:
            raise UserError(f"unknown setting {path}{_did_you_mean(str(key), known, where)}")
        made[key] = _convert(hints[key], value, path, what)
    missing = [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.name not in made
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        prefix = f"{where}." if where else ""
        raise UserError(f"{what} lacks {', '.join(prefix + name for name in missing)}")
    return cls(**made)


def _did_you_mean(key: str, known: list[str], where: str) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    prefix = f"{where}." if where else ""
    return f"; did you mean {prefix}{near[0]}?" if near else f"; known: {', '.join(known)}"


def _convert(hint: Any, value: Any, path: str, what: str) -> Any:
    options = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if dataclasses.is_dataclass(options[0]):
        return build(typing.cast(type, options[0]), value, where=path, what=what)
    if typing.get_origin(options[0]) is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{path} is {value!r}; it must be a list")
        item = typing.get_args(options[0])[0]
        return tuple(_convert(item, v, f"{path}[{at}]", what) for at, v in enumerate(value))
    if Path in options and isinstance(value, str):
        return Path(value)
    if typing.get_origin(options[0]) is typing.Literal:
        one_of(path, value, typing.get_args(options[0]))
        return value
    kinds = [typing.get_origin(option) or option for option in options]
    if kinds == [float] and type(value) is int:
        return float(value)
    if not any(isinstance(value, k) and (k is bool or not isinstance(value, bool)) for k in kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise UserError(f"{path} is {value!r}; it must be of type {names}")
    require(
        not isinstance(value, float) or math.isfinite(value),
        f"{path} is {value!r}; it must be a finite number",
    )
    return value


def require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def one_of(where: str, value: str, allowed: tuple[str, ...]) -> None:
    require(value in allowed, f"{where} is {value!r}; it must be one of {', '.join(allowed)}")


def require_positive(part: str, section: Any, *names: str) -> None:
    """Require positive numbers, or lists of them, in the section `part`; None passes, NaN fails."""
    _require_each(part, section, names, lambda value: 0 < value < math.inf, "positive")


def require_not_negative(part: str, section: Any, *names: str) -> None:
    _require_each(part, section, names, lambda value: 0 <= value < math.inf, "at least 0")


def require_share(part: str, section: Any, *names: str) -> None:
    _require_each(part, section, names, lambda value: 0 <= value <= 1, "between 0 and 1")


def _require_each(
    part: str, section: Any, names: tuple[str, ...], fits: Callable[[float], bool], rule: str
) -> None:
    for name in names:
        value = getattr(section, name)
        for one in value if isinstance(value, tuple) else (value,):
            require(one is None or fits(one), f"{part}.{name} is {one}; it must be {rule}")


def refuse_below(least: int, section: Any, *names: str) -> None:
    """Values from files and from Python are checked like those of the command line."""
    for name in names:
        value = getattr(section, name)
        if value is not None and value < least:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} must be at least {least}, not {value}")


def refuse_undecoded(section: Any, *names: str) -> None:
    """Bytes that are not UTF-8, passed on by the shell, cannot be stored in our files."""
    for name in names:
        value = getattr(section, name)
        if value is not None and not is_decoded(value):
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} contains bytes that are not valid UTF-8: use UTF-8")


def is_decoded(text: str) -> bool:
    """Whether it was valid UTF-8, without surrogates that stand for single bytes."""
    return text.encode("utf-8", "replace").decode() == text
