"""Removing local paths, servers and passwords from a run's records."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data.environment import strip_path
from data.settings.yaml_files import parse_override

# Local paths of images; the names within the folder are in the rows.
_PRIVATE = ("images", "images_relative", "images_given", "config")
# What users wrote for the model is never a path, even if it begins with a slash.
_TEXTS = ("prompt", "rendered_prompt", "system", "choices", "schema")
_SERVERS = ("server", "servers", "address")
_SERVER = "http://SERVER"
# On a command line, these may have a slash without being relative paths.
_NAMES = re.compile(r"m|model|model_name|revision|split|dataset_config|\w+_column")
# `--name`, `--name=` or `-n`, at the beginning of a word.
_OPTION = re.compile(r"--[\w-]+(?:=|$)|-\w|")


def strip_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """run.json for publishing: only the last part of absolute paths, no servers."""
    stripped = {n: _strip(value, n) for n, value in run.items() if n not in _PRIVATE}
    commands = run.get("commands")
    if isinstance(commands, list):
        stripped["commands"] = [strip_words(words) for words in commands]
    source = run.get("source")
    if isinstance(source, Mapping):
        options = source.get("options")
        name = options.get("name") if isinstance(options, Mapping) else None
        stripped["source"] = {"kind": source.get("kind")} | ({"name": _strip(name)} if name else {})
    return stripped


def strip_words(words: Sequence[str]) -> list[str]:
    """The words of a command line, without local paths and servers."""
    shown: list[str] = []
    key = ""
    for word in map(str, words):
        # The word after `--prompt` is a text, even if it begins with a hyphen.
        found = None if key in _TEXTS else _OPTION.match(word)
        option = found.group() if found else ""
        if option:
            key = option.strip("-=").replace("-", "_")
        value = word[len(option) :]
        if value:
            value = _strip_override(value) if key == "set" else _strip(value, key, typed=True)
            key = ""
        shown.append(option + value)
    return shown


def _strip_override(text: str) -> str:
    """`section.name=VALUE` of `--set`, where VALUE is YAML."""
    values = parse_override(text)
    stripped = _strip(values, typed=True)
    if stripped == values:
        return text
    place = text.partition("=")[0]
    for key in place.strip().split("."):
        stripped = stripped[key]
    return f"{place}={stripped if isinstance(stripped, str) else json.dumps(stripped)}"


def _strip(value: Any, key: str = "", *, typed: bool = False) -> Any:
    """A value and what is within it; `typed` on a command line, where paths can be relative."""
    if key in _TEXTS:
        return value
    if isinstance(value, Mapping):
        return {name: _strip(part, str(name), typed=typed) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strip(inner, key, typed=typed) for inner in value]
    if not isinstance(value, str):
        return value
    if key in _SERVERS:
        return _SERVER
    return strip_path(value, relative=typed and not _NAMES.fullmatch(key))
