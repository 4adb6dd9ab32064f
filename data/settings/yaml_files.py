"""YAML files of settings: reading, merging, and overriding with `--set`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from data.errors import UserError


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping; values such as 2e-4 are numbers.

    Raises:
        UserError: it does not contain one.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: another encoding.
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must contain a mapping of settings")
    return values


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `over` into `base`: mappings key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def parse_override(text: str) -> dict[str, Any]:
    """Parse `--set section.key=value` into a nested mapping; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set expects section.key=value, not {text!r}")
    try:
        return nest(key.strip().split("."), yaml.load(value, Loader=_Loader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"--set {text!r}: the value is not YAML") from error


def nest(keys: list[str], value: Any) -> dict[str, Any]:
    """`["a", "b"], 1` -> `{"a": {"b": 1}}`."""
    for key in reversed(keys):
        value = {key: value}
    return value


class _Loader(yaml.SafeLoader):
    """Reads 2e-4, a common way to write a learning rate, as a number; YAML 1.1 does not.

    PyYAML silently takes the last of two entries with the same key; here this is an error.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for place, name in enumerate(names):
            if name in names[:place] and not name[0].endswith(":merge"):
                raise yaml.MarkedYAMLError(
                    problem=f"{name[1]!r} appears twice", problem_mark=node.start_mark
                )
        return super().construct_mapping(node, deep)


# No setting is a date; a text such as 2024-01-31 stays a text.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)
