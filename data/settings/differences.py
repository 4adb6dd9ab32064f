"""Differences between the settings of two runs, and installed package versions."""

import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any

_ABSENT = "not set"


def list_differences(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """`sampling.temperature: 0.0 -> 0.2` for each setting that differs, ordered by name."""
    there, here = _flatten(recorded), _flatten(asked)
    pairs = ((name, there.get(name, _ABSENT), here.get(name, _ABSENT)) for name in there | here)
    return sorted(f"{name}: {_show(old)} -> {_show(new)}" for name, old, new in pairs if old != new)


def list_versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _show(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
