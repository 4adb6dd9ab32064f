"""The content of run.json as lines for the page; anything may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LABELS = (
    ("model", "Model"),
    ("revision", "Revision"),
    ("prompt", "Prompt"),
    ("settings.sampling", "Sampling"),
    ("settings.preprocessing", "Preprocessing"),
    ("settings.dtype", "Weights as"),
    ("settings.kv_cache_dtype", "KV cache as"),
    ("engine", "Engine"),
    ("images", "Images"),
    ("additions", "Added later"),
    ("statuses", "Rows by status"),
    ("flags", "Texts by flag"),
    ("versions", "Versions"),
    ("hardware", "Hardware"),
    ("run_id", "Run"),
)


def list_facts(run: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """(label, text) for the model, prompt, sampling and so on in run.json."""
    mixed = _describe_makers(run)
    told = {**run, "additions": _describe_additions(run)}
    if mixed:
        told["versions"] = mixed
    facts = [(label, _describe(_find(told, place))) for place, label in _LABELS]
    facts.append(("Speed", _describe_speed(run)))
    return tuple((label, text) for label, text in facts if text)


def _find(run: Mapping[str, Any], place: str) -> Any:
    value: Any = run
    for part in place.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _describe(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        parts = ((key, _describe(part)) for key, part in value.items())
        return ", ".join(f"{str(key).replace('_', ' ')} {text}" for key, text in parts if text)
    if isinstance(value, list):
        return " ".join(_describe(part) for part in value)
    return str(value)


def _describe_additions(run: Mapping[str, Any]) -> str:
    additions = run.get("additions")
    found = additions if isinstance(additions, list) else ()
    counts = [addition.get("images") for addition in found if isinstance(addition, Mapping)]
    return ", then ".join(f"{count:,} images" for count in counts if isinstance(count, int))


def _describe_makers(run: Mapping[str, Any]) -> str:
    """The package versions that generated rows, with the number of rows if there are several."""
    makers = run.get("made_by")
    found = makers.values() if isinstance(makers, Mapping) else ()
    made = [maker for maker in found if isinstance(maker, Mapping) and maker.get("rows")]
    if len(made) < 2:
        return ""
    parts = [
        f"{maker['rows']:,} rows by {_describe(maker.get('versions')) or 'unknown versions'}"
        for maker in made
    ]
    return f"mixed (the metadata of the shards record it per row): {'; '.join(parts)}"


def _describe_speed(run: Mapping[str, Any]) -> str:
    sessions = run.get("sessions")
    if not isinstance(sessions, Mapping):
        return ""
    generated, seconds = sessions.get("generated"), sessions.get("seconds")
    if not (isinstance(generated, int) and isinstance(seconds, (int, float)) and seconds > 0):
        return ""
    return f"{generated:,} images in {seconds:,.0f} s, {generated / seconds:,.1f} images/s"
