"""The record of one check."""

from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """What was looked at and what came out of it.

    `fail` means that the main job (captions, training, evaluation with what the project ships)
    cannot run here; `warn` that something a user may want cannot; `remedy` says what to do.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)  # the same as plain values, for --json
