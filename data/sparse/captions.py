"""Sparse captions and splits: Karpathy JSON, COCO, Flickr captions.txt, released D2S-VSE files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.sparse.released import is_released_folder, read_released_folder
from data.sparse.source import SPLITS, CaptionedImage, CaptionSource

USUAL_NAMES = ("dataset_*.json", "annotations/captions_*.json", "captions.txt", "*_ids.txt")


def find_captions(images: Path) -> Path:
    """The one caption source in the images folder or beside it.

    COCO's `annotations` folder with one file per official split counts as one source, and so do
    the files of the released code that lie together.

    Raises:
        UserError: none, or more than one; names the option that decides.
    """
    places = dict.fromkeys((images.resolve(), images.resolve().parent))
    found: dict[Path, None] = {}
    for place in places:
        for pattern in USUAL_NAMES:
            files = sorted(place.glob(pattern))
            if pattern.startswith("annotations/") and len(files) > 1 and _one_per_split(files):
                files = [place / "annotations"]
            elif pattern == "*_ids.txt":
                files = [place] if is_released_folder(place) else []
            found.update(dict.fromkeys(files))
    if len(found) == 1:
        return _shown(next(iter(found)))
    if not found:
        raise UserError(
            f"no captions in {images} or beside it (looked for {', '.join(USUAL_NAMES)}): "
            "name the file with --captions"
        )
    listed = ", ".join(str(_shown(path)) for path in found)
    raise UserError(f"{len(found)} caption sources ({listed}): name one with --captions")


def read_captions(path: Path) -> CaptionSource:
    """Read a caption file, COCO's `annotations` folder or the released code's, whatever its kind.

    Raises:
        UserError: missing, unreadable, of no known kind, or without an image.
    """
    if path.is_dir():
        released = is_released_folder(path)
        source = read_released_folder(path) if released else _read_coco_folder(path)
    elif not path.is_file():
        raise UserError(f"the captions {path} do not exist")
    elif path.suffix == ".json":
        source = _read_json(path)
    else:
        source = _read_flickr(path)
    if not source.images:
        raise UserError(f"{path} holds no captioned image")
    names = Counter(image.file_name for image in source.images)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UserError(f"{path} lists {len(twice)} images twice, {twice[0]} for example")
    return source


def split_by_hash(file_name: str, *, shares: tuple[float, float] = (0.1, 0.1)) -> str:
    """A split from the file name alone: the same on every machine and in every order.

    `shares` are those of val and test; the rest is train.
    """
    digest = hashlib.sha256(file_name.encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    return "val" if draw < shares[0] else "test" if draw < sum(shares) else "train"


def _read_json(path: Path) -> CaptionSource:
    data = _load_json(path)
    if isinstance(data, dict) and isinstance(data.get("images"), list):
        if "annotations" in data:
            return _split_all(CaptionSource(path, "coco", _coco_images(path, data, split="")))
        return _read_karpathy(path, data["images"])
    raise UserError(f"{path} is neither Karpathy's JSON (images with sentences) nor COCO's")


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error


def _read_karpathy(path: Path, rows: list[Any]) -> CaptionSource:
    images = []
    for number, row in enumerate(rows):
        try:
            name = row["filename"]
            folder = row.get("filepath", "")
            said = [(_clean(s["raw"]), s.get("sentid")) for s in row["sentences"]]
            split = {"restval": "train"}.get(row["split"], row["split"])
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: image {number} lacks {error}") from error
        if split not in SPLITS:
            raise UserError(f"{path}: image {number} has the unknown split {split!r}")
        number_id = row.get("cocoid", row.get("imgid"))
        captions, caption_ids = _part([pair for pair in said if pair[0]])
        images.append(
            CaptionedImage(
                file_name=f"{folder}/{name}" if folder else name,
                captions=captions,
                split=split,
                image_id=None if number_id is None else str(number_id),
                caption_ids=caption_ids,
            )
        )
    return CaptionSource(path, "karpathy", tuple(images))


def _coco_images(path: Path, data: dict[str, Any], *, split: str) -> tuple[CaptionedImage, ...]:
    said: dict[Any, list[tuple[str, Any]]] = {}
    try:
        for note in data["annotations"]:
            pair = (_clean(note["caption"]), note.get("id"))
            said.setdefault(note["image_id"], []).append(pair)
        images = []
        for image in data["images"]:
            if image["id"] in said:
                captions, ids = _part(said[image["id"]])
                name, image_id = image["file_name"], str(image["id"])
                images.append(CaptionedImage(name, captions, split, image_id, caption_ids=ids))
        return tuple(images)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: an image or an annotation lacks {error}") from error


def _part(said: list[tuple[str, Any]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Captions and their ids; no ids where one has none."""
    ids = [number for _, number in said]
    return tuple(c for c, _ in said), () if None in ids else tuple(map(str, ids))


def _read_coco_folder(path: Path) -> CaptionSource:
    files = sorted(path.glob("captions_*.json")) or sorted(path.glob("annotations/captions_*.json"))
    if not files or not _one_per_split(files):
        raise UserError(
            f"{path} holds neither one captions_*.json per split nor the released code's "
            "{split}_ids.txt and {split}_caps.txt: name one file"
        )
    images: list[CaptionedImage] = []
    has_test = any(_official_split(file) == "test" for file in files)
    for file in files:
        data = _load_json(file)
        if not isinstance(data, dict) or "images" not in data:
            raise UserError(f"{file} is not a COCO captions file")
        if "annotations" not in data:
            continue  # COCO publishes its test images without captions.
        images.extend(_coco_images(file, data, split=_official_split(file) or ""))
    source = CaptionSource(path, "coco", tuple(images))
    if has_test or len(files) == 1:
        return source
    # COCO's own test captions are secret, so its val file has to give both val and test.
    halved = tuple(
        replace(i, split=_halve(i.file_name)) if i.split == "val" else i for i in source.images
    )
    note = "the val file is halved into val and test by a hash of the file name"
    return replace(source, images=halved, notes=(note,))


def _halve(file_name: str) -> str:
    return split_by_hash(file_name, shares=(0.5, 0.5))


def _one_per_split(files: Iterable[Path]) -> bool:
    splits = [_official_split(file) for file in files]
    return None not in splits and len(set(splits)) == len(splits)


def _official_split(file: Path) -> str | None:
    found = re.fullmatch(r"captions_(train|val|test)\d*", file.stem)
    return found.group(1) if found else None


def _read_flickr(path: Path) -> CaptionSource:
    """With a header and "," or "|" between its columns, or `image#number<TAB>caption`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}") from error
    captions: dict[str, list[str]] = {}
    for number, (name, caption) in enumerate(_flickr_rows(path, text), start=1):
        if not name or not caption:
            raise UserError(f"{path}: line {number} holds no image and caption")
        captions.setdefault(name, []).append(caption)
    images = tuple(CaptionedImage(name, tuple(c), "") for name, c in captions.items())
    return _split_all(CaptionSource(path, "flickr", images))


def _flickr_rows(path: Path, text: str) -> Iterable[tuple[str, str]]:
    first = text.split("\n", 1)[0]
    if "\t" in first:
        rows = [line.split("\t", 1) for line in text.splitlines() if line.strip()]
        return [(r[0].rsplit("#", 1)[0], _clean(r[1]) if len(r) > 1 else "") for r in rows]
    if "|" in first:
        rows = [line.split("|", 2) for line in text.splitlines()[1:] if line.strip()]
        return [(r[0].strip(), _clean(r[2]) if len(r) > 2 else "") for r in rows]
    if first.strip().lower().split(",")[:1] in (["image"], ["image_name"]):
        table = list(csv.reader(io.StringIO(text)))[1:]
        return [(r[0], _clean(",".join(r[1:]))) for r in table if r]
    raise UserError(
        f"{path} is no Flickr captions file: its first line is neither a header 'image,caption' "
        "nor 'image#number<TAB>caption'"
    )


def _split_all(source: CaptionSource) -> CaptionSource:
    images = tuple(replace(i, split=split_by_hash(i.file_name)) for i in source.images)
    note = "no splits in the source: 80/10/10 train/val/test by a hash of the file name"
    return replace(source, images=images, notes=(*source.notes, note))


def _clean(caption: str) -> str:
    # JSON can hold half a character, which no tokenizer and no file takes.
    return " ".join(caption.split()).encode("utf-8", "replace").decode()


def _shown(path: Path) -> Path:
    """Relative to where the user stands, when it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
