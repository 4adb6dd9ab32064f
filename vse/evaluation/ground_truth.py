"""Ground truth with several correct answers per query: ECCV Caption and CxC, from JSON files.

The files are those of the package `eccv_caption` (MIT; Chun et al., ECCV 2022): for each query id,
the ids of its correct answers. They are read as JSON; the package itself is not imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files.text_files import read_json

PACKAGE = "eccv_caption"
NAMES = ("eccv", "cxc")
# The split's own pairs; not measured, since that is what plain recall is.
ORIGINAL = "original_caption_to_image.json"
# A split is COCO's if at least this share of its ids is: a few ids may coincide by chance.
COCO_SHARE = 0.9
_Right = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class GroundTruth:
    """Ids of the correct texts by image id, and of the correct images by text id, without
    duplicates.

    `outside` are correct texts that are not in the split: ECCV Caption has two sixth captions.
    """

    texts: _Right
    images: _Right
    outside: frozenset[str] = frozenset()


def find_package() -> Path | None:
    """The folder of the files in the installed package, None if it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "data"


def read_ground_truth(folder: Path) -> dict[str, GroundTruth]:
    """Read {eccv,cxc}_{image_to_caption,caption_to_image}.json as far as they exist, by name.

    Raises:
        UserError: there is none, only one direction, or a file in another format.
    """
    found = {}
    original = folder / ORIGINAL
    known = set(_read(original)) if original.is_file() else None
    for name in NAMES:
        paths = [folder / f"{name}_{way}.json" for way in ("image_to_caption", "caption_to_image")]
        there = [path.is_file() for path in paths]
        if all(there):
            texts, images = (_read(path) for path in paths)
            named = {text for mine in texts.values() for text in mine}
            outside = frozenset() if known is None else frozenset(named - known)
            found[name] = GroundTruth(texts, images, outside)
        elif any(there):
            raise UserError(
                f"{paths[there.index(False)]} is missing (the other direction is there)"
            )
    if not found:
        raise UserError(
            f"{folder} has no ground truth (looked for eccv_image_to_caption.json, "
            "eccv_caption_to_image.json and the same for cxc)"
        )
    return found


def is_coco(folder: Path, image_of_caption: Mapping[str, str]) -> bool:
    """Whether nearly all ids of captions and images are those of COCO's test split."""
    path = folder / ORIGINAL
    if not path.is_file() or not image_of_caption:
        return False
    original = _read(path)
    same = sum(original.get(text) == (image,) for text, image in image_of_caption.items())
    return same >= COCO_SHARE * len(image_of_caption)


def _read(path: Path) -> _Right:
    value = read_json(path)
    if not isinstance(value, dict) or not all(map(_is_ids, value.values())):
        raise UserError(f'{path} is not ground truth: it should be {{"id": [id, ...], ...}}')
    return {query: tuple(dict.fromkeys(map(str, ids))) for query, ids in value.items()}


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, (int, str)) for one in value)
