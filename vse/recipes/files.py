"""Recipes on disk: finding, reading, overriding, and resolving one stage's settings."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files.hashes import hash_bytes
from data.settings.yaml_files import merge, nest, parse_override, read_yaml
from vse.recipes import STAGES, Recipe, build

SHIPPED = Path(__file__).parent


def shipped_recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    """Read a shipped recipe by name or a YAML file by path; unresolved, with its `stages`.

    A recipe with a `base` (the name of a shipped one, or a path relative to its own folder) is
    merged into it. `published` (figures of a paper) is passed through.

    Raises:
        UserError: no such recipe, not a YAML mapping, or a cycle of bases.
    """
    return _read(find_recipe(name), above=())


def hash_recipe(raw: Mapping[str, Any]) -> str:
    """SHA-256 of a recipe's values, to notice that a file has changed."""
    return hash_bytes(json.dumps(raw, sort_keys=True).encode())


def find_recipe(name: str, *, near: Path = Path()) -> Path:
    """The file of a shipped recipe, or the file `name` relative to the folder `near`.

    Raises:
        UserError: neither.
    """
    path = SHIPPED / f"{name}.yaml"
    if not re.fullmatch(r"[\w-]+", name) or not path.is_file():
        path = near / name
    if not path.is_file():
        raise UserError(
            f"no recipe {name!r}: give one of {', '.join(shipped_recipes())} "
            "or the path of a YAML file"
        )
    return path


def locate_recipe(name: str) -> str:
    """A shipped recipe's name, or a file's full path, for commands that run in another folder.

    Raises:
        UserError: neither.
    """
    return name if name in shipped_recipes() else str(find_recipe(name).resolve())


def locate_towers(raw: Mapping[str, Any], overrides: Iterable[str]) -> tuple[str, ...]:
    """The overrides, and full paths of local backbones, for commands that run in another folder.

    Raises:
        UserError: invalid settings.
    """
    recipe = resolve(raw, stage="1", overrides=overrides)
    names = {"image.name": recipe.image.name, "text.name": recipe.text.name}
    full = {key: _locate_backbone(name) for key, name in names.items() if name is not None}
    changed = (f"{key}={json.dumps(name)}" for key, name in full.items() if name != names[key])
    return (*overrides, *changed)


def _locate_backbone(name: str) -> str:
    """models/vit -> /home/me/models/vit, open_clip:ARCH/x.pt -> open_clip:ARCH//home/me/x.pt."""
    library, colon, place = name.rpartition(":")
    arch, _, weights = place.partition("/")
    for before, path in (("", place), (f"{arch}/", weights)):
        if path and Path(path).exists():
            return f"{library}{colon}{before}{Path(path).resolve()}"
    return name


def _read(path: Path, *, above: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in above:
        raise UserError(f"{path} is its own base: {' -> '.join(str(p) for p in above)}")
    values = read_yaml(path)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{path}: base is {base!r}; it must name one recipe")
    below = find_recipe(base, near=path.parent)
    return _overlay(_read(below, above=(*above, path.resolve())), values)


def _overlay(below: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Like `merge`, but `optim.epochs` also replaces `optim.steps` of `below`, which would win."""
    merged = merge(below, over)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), Mapping):
            merged[key] = _overlay(below[key], value)
    if "epochs" in over and "steps" in below and "steps" not in over:
        merged["steps"] = None
    return merged


def resolve(
    raw: Mapping[str, Any], *, stage: str, overrides: Iterable[str] = (), **options: Any
) -> Recipe:
    """Resolve the settings of one stage: recipe < its `stages` entry < `--set` < other options.

    Of `optim.epochs` and `optim.steps` the later one counts; of two in one place, the steps.

    Args:
        raw: the result of `read_recipe`.
        overrides: "a.b=c" strings, c read as YAML.
        options: keys with "__" instead of the dot (optim__steps=300); None means not given.

    Raises:
        UserError: an unknown key or an invalid value.
    """
    values = copy.deepcopy(dict(raw))
    stages = values.pop("stages", None) or {}
    values.pop("published", None)
    unknown = [str(s) for s in stages if str(s) not in STAGES]
    if unknown:
        raise UserError(
            f"unknown stage {unknown[0]!r} in the recipe; stages are {', '.join(STAGES)}"
        )
    for key, part in stages.items():
        if str(key) == stage:
            values = _overlay(values, part)
    for text in overrides:
        values = _overlay(values, parse_override(text))
    for key, value in options.items():
        if value is not None:
            values = _overlay(values, nest(key.split("__"), value))
    return build(Recipe, values)
