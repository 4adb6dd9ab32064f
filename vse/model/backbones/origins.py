"""The Hub repositories of a model's pretrained backbones, from the names in its recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.environment import SHIPPED_MODELS

_REPO = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*", re.ASCII)


def list_origins(recipe: Mapping[str, Any]) -> list[str]:
    """Names such as google/vit-base-patch16-224-in21k; none for local or random weights."""
    found = []
    for part in ("image", "text"):
        settings = recipe.get(part) or {}
        name = settings.get("name")
        if name and settings.get("pretrained", True) and not settings.get("config"):
            found.append(find_origin(str(name)))
    return list(dict.fromkeys(name for name in found if name is not None))


def find_origin(name: str) -> str | None:
    """The repository behind a backbone's name (docs/towers.md), None if it is not on the Hub."""
    library, colon, given = name.partition(":")
    if not colon:
        given = name
    elif library == "llava":
        if given in SHIPPED_MODELS:
            return None
    elif library == "timm":
        given = given if "/" in given else f"timm/{given}"
    else:
        given = _find_open_clip(given)
    if Path(given).exists() or not _REPO.fullmatch(given):
        return None
    return given


def _find_open_clip(given: str) -> str:
    if given.startswith("hf-hub:"):
        return given.removeprefix("hf-hub:")
    # Imports torch.
    import open_clip

    arch, _, tag = given.partition("/")
    repo = str((open_clip.get_pretrained_cfg(arch, tag) or {}).get("hf_hub", ""))
    return repo.rpartition("/")[0]
