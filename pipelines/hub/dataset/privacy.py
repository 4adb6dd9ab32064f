"""Removing local paths, servers and passwords from a run's records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from data.escaping import drop_folder

# Local paths of images; the names within the folder are in the rows.
_PRIVATE = ("images", "images_relative", "images_given", "config")
_SERVER = "http://SERVER"
# User and password before the host; a signature after the path.
_SECRETS = re.compile(r"(?<=://)[^\s/@]*@|(?<=\S)\?\S*")


def strip_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """run.json for publishing: only the last part of absolute paths, no servers."""
    kept = {name: value for name, value in run.items() if name not in _PRIVATE}
    stripped = _strip(kept)
    makers = stripped.get("made_by")
    for maker in (stripped, *(makers.values() if isinstance(makers, dict) else ())):
        engine = maker.get("engine") if isinstance(maker, dict) else None
        if isinstance(engine, dict) and isinstance(engine.get("servers"), list):
            for served in engine["servers"]:
                served |= {"address": _SERVER} if isinstance(served, dict) else {}
    commands = run.get("commands")
    if isinstance(commands, list):
        stripped["commands"] = [strip_words(words) for words in commands]
    source = run.get("source")
    if isinstance(source, Mapping):
        options = source.get("options")
        name = options.get("name") if isinstance(options, Mapping) else None
        stripped["source"] = {"kind": source.get("kind")} | ({"name": _strip(name)} if name else {})
    return dict(stripped)


def strip_words(words: Sequence[str]) -> list[str]:
    """The words of a command line, without local paths."""
    shown: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if before == "--server" or str(word).startswith("--server="):
            shown.append(_SERVER if before == "--server" else f"--server={_SERVER}")
        else:
            # A prompt may begin with a slash.
            told = before == "--prompt" or str(word).startswith("--prompt=")
            shown.append(str(word) if told else str(_strip(str(word))))
    return shown


def _strip(value: Any) -> Any:
    if isinstance(value, Mapping):
        # A prompt may begin with a slash.
        return {key: part if key == "prompt" else _strip(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strip(inner) for inner in value]
    if not isinstance(value, str):
        return value
    name, equals, rest = value.partition("=")
    if equals and name.startswith("--"):
        return f"{name}={_strip(rest)}"
    return _SECRETS.sub("", value) if re.match(r"\w+://", value) else drop_folder(value)
