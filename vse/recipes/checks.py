"""Checks that the settings share."""

from __future__ import annotations

from data.errors import UserError


def require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def one_of(where: str, value: str, allowed: tuple[str, ...]) -> None:
    require(value in allowed, f"{where} is {value!r}; it must be one of {', '.join(allowed)}")
