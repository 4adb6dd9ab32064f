"""The released code's files of one data set, lying together, as a caption source with dense text.

    {split}_ids.txt, {split}_caps.txt, id_mapping.json, {dataset}_{split}.jsonl

Its loader knows the validation split as `dev` and COCO's 5,000 test images as `testall`.
"""

from __future__ import annotations

from pathlib import Path

from data.errors import UserError
from data.matching import list_some
from data.sparse.released import read_caption_lines, read_dense_lines, read_id_mapping, read_ids
from data.sparse.source import CaptionedImage, CaptionSource

MAPPING = "id_mapping.json"
# The first that is there is read: `testall` holds what `test` holds and more.
NAMES = {"train": ("train",), "val": ("val", "dev"), "test": ("testall", "test")}


def is_released_folder(path: Path) -> bool:
    """Whether the folder has ids with captions of at least one split."""
    return any(_find_split(path, split) is not None for split in NAMES)


def read_released_folder(path: Path) -> CaptionSource:
    """Read every split that is there, its dense text too.

    Raises:
        UserError: a file that cannot be read, numbers that disagree, an id without a file name,
            one image in two splits.
    """
    mapping_path = _find_mapping(path)
    mapping = read_id_mapping(mapping_path)
    images: list[CaptionedImage] = []
    notes = []
    for split in NAMES:
        name = _find_split(path, split)
        if name is None:
            continue
        found, dense_path = _read_split(path, name, split, mapping, mapping_path)
        images += found
        if dense_path is not None:
            notes.append(f"dense text of {len(found):,} {split} images from {dense_path.name}")
    return CaptionSource(path, "released", tuple(images), tuple(notes))


def has_dense_files(path: Path) -> bool:
    """Whether a folder has the captions and the dense text of training images."""
    return _find_split(path, "train") is not None and _find_dense(path, "train") is not None


def _read_split(
    path: Path, name: str, split: str, mapping: dict[str, str], mapping_path: Path
) -> tuple[list[CaptionedImage], Path | None]:
    ids_path = path / f"{name}_ids.txt"
    ids = read_ids(ids_path).ids
    captions = read_caption_lines(path / f"{name}_caps.txt", images=len(ids))
    unknown = [image_id for image_id in ids if image_id not in mapping]
    if unknown:
        raise UserError(
            f"{len(unknown):,} of {len(ids):,} ids of {ids_path} have no file name in "
            f"{mapping_path}: {list_some(unknown)}"
        )
    dense_path = _find_dense(path, split)
    dense: list[str | None] = [None] * len(ids)
    if dense_path is not None:
        lines = read_dense_lines(dense_path)
        if len(lines) != len(ids):
            raise UserError(
                f"{dense_path} has {len(lines):,} lines and {ids_path} {len(ids):,} ids: they "
                "belong together line by line, so every later image would get another's text"
            )
        dense = [line.text for line in lines]
    made = [
        CaptionedImage(mapping[image_id], of_image, split, image_id, text)
        for image_id, of_image, text in zip(ids, captions, dense, strict=True)
    ]
    return made, dense_path


def _find_split(path: Path, split: str) -> str | None:
    """The name that the folder has for a split."""
    for name in NAMES[split]:
        if (path / f"{name}_ids.txt").is_file() and (path / f"{name}_caps.txt").is_file():
            return name
    return None


def _find_dense(path: Path, split: str) -> Path | None:
    for name in NAMES[split]:
        found = sorted(path.glob(f"*_{name}.jsonl"))
        if len(found) > 1:
            raise UserError(
                f"{len(found)} files with dense text of the {split} split in {path} "
                f"({', '.join(file.name for file in found)}): keep one"
            )
        if found:
            return found[0]
    return None


def _find_mapping(path: Path) -> Path:
    """Beside the ids, or one folder up, where the released code's configuration has it too."""
    for folder in (path, path.resolve().parent):
        if (folder / MAPPING).is_file():
            return folder / MAPPING
    raise UserError(f"{path} has no {MAPPING}, which names the file of each id")
