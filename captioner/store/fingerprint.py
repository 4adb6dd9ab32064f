"""What makes two runs the same run, and how they differ where they do."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_ABSENT = "not set"


def make_fingerprint(settings: Mapping[str, Any]) -> str:
    """One hash of all settings that decide what the rows say."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def explain_difference(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """`sampling.temperature is 0.0 there and 0.2 here; ...`, in the order of the settings."""
    there, here = _flatten(recorded), _flatten(asked)
    names = [*there, *(name for name in here if name not in there)]
    return "; ".join(
        f"{name} is {_show(there.get(name, _ABSENT))} there "
        f"and {_show(here.get(name, _ABSENT))} here"
        for name in names
        if there.get(name, _ABSENT) != here.get(name, _ABSENT)
    )


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _show(value: Any) -> str:
    text = value if value == _ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
