"""Sparse captions and splits: Karpathy JSON, COCO, Flickr captions.txt, released D2S-VSE files."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files.text_files import (
    DELIMITERS,
    NULLS,
    list_captions,
    read_delimited,
    read_json,
    read_text,
    replace_halves,
)
from data.matching import name_id, tie
from data.sparse.released import is_released_folder, read_released_folder
from data.sparse.source import SPLITS, CaptionedImage, CaptionSource

USUAL_NAMES = ("dataset_*.json", "annotations/captions_*.json", "captions.txt", "*_ids.txt")
# What the splits are called elsewhere.
_SPLIT_NAMES = {"restval": "train", "training": "train", "dev": "val", "valid": "val",
                "validation": "val", "testing": "test"}  # fmt: skip
# As people call the columns of a table of captions, in lower case.
_IMAGES = {"image", "image_name", "image_file", "file_name", "filename"}
_CAPTIONS = {"caption", "caption_text", "comment", "raw", "sentence", "text"}
# `1.jpg#0<TAB>caption`, without a header.
_TOKEN = re.compile(r"([^\t]+?)#[0-9]+\t")
_NUMBERED = re.compile(r"#[0-9]+$")


def find_captions(images: Path) -> Path:
    """The one caption source in the image folder or beside it.

    COCO's `annotations` folder with one file per official split counts as one source, and so do
    the files of the released code that lie together.

    Raises:
        UserError: none, or more than one; names the option that decides.
    """
    found = find_captions_if_any(images)
    if found is None:
        raise UserError(
            f"no captions in {images} or beside it (looked for {', '.join(USUAL_NAMES)}): specify "
            "the file with --captions"
        )
    return found


def find_captions_if_any(images: Path) -> Path | None:
    """`find_captions`, or None if there are none."""
    found: dict[Path, None] = {}
    # As it was typed first: a link may have its captions beside it.
    for place in dict.fromkeys((images.absolute(), images.resolve())):
        found = found or dict.fromkeys(_list_sources([place, place.parent]))
    if len(found) < 2:
        return _shown(next(iter(found))) if found else None
    listed = ", ".join(str(_shown(path)) for path in found)
    raise UserError(f"{len(found)} caption sources ({listed}): specify one with --captions")


def _list_sources(places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        for pattern in USUAL_NAMES:
            files = sorted(place.glob(pattern))
            if pattern.startswith("annotations/") and len(files) > 1 and _one_per_split(files):
                files = [place / "annotations"]
            elif pattern == "*_ids.txt":
                files = [place] if is_released_folder(place) else []
            yield from files


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
    elif path.suffix.lower() == ".json":
        source = _read_json(path)
    else:
        source = _read_flickr(path)
    if not source.images:
        raise UserError(f"{path} contains no captioned image")
    names = Counter(image.file_name for image in source.images)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UserError(f"{path} lists {len(twice)} images twice, for example {twice[0]}")
    return source


def split_by_hash(file_name: str, *, shares: tuple[float, float] = (0.1, 0.1)) -> str:
    """A split from the file name alone: the same on every machine and in every order.

    `shares` are those of val and test; the rest is train.
    """
    digest = hashlib.sha256(file_name.encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    return "val" if draw < shares[0] else "test" if draw < sum(shares) else "train"


def find_delimiter_of_captions(path: Path) -> str | None:
    """What stands between the columns of a table of captions, None if its header is another."""
    first = read_text(path).split("\n", 1)[0].lower()
    cells = {sign: {cell.strip(' "\r') for cell in first.split(sign)} for sign in DELIMITERS}
    return next((s for s in DELIMITERS if cells[s] & _IMAGES and cells[s] & _CAPTIONS), None)


def _read_json(path: Path) -> CaptionSource:
    data = read_json(path)
    if isinstance(data, dict) and isinstance(data.get("images"), list):
        if "annotations" in data:
            return _split_all(CaptionSource(path, "coco", *_read_coco(path, data, split="")))
        return _read_karpathy(path, data["images"])
    raise UserError(f"{path} is neither Karpathy's JSON (images with sentences) nor COCO's")


def _read_karpathy(path: Path, rows: list[Any]) -> CaptionSource:
    images = []
    blank = 0
    for number, row in enumerate(rows):
        where = f"{path}: image {number}"
        folder = _get(where, row, "filepath", str, default="")
        name = _get(where, row, "filename", str)
        sentences = _get(where, row, "sentences", list)
        said = [
            (_clean(_get(f"{where}, sentence {place}", one, "raw", str)), one.get("sentid"))
            for place, one in enumerate(sentences)
        ]
        captions, caption_ids = _part(said)
        blank += len(said) - len(captions)
        images.append(
            CaptionedImage(
                file_name=replace_halves(f"{folder}/{name}" if folder else name),
                captions=captions,
                split=_name_split(where, _get(where, row, "split", str)),
                image_id=_name_id(where, row.get("cocoid", row.get("imgid"))),
                caption_ids=caption_ids,
            )
        )
    return CaptionSource(path, "karpathy", tuple(images), _count(path, blank, "captions are blank"))


def _read_coco(
    path: Path, data: Mapping[str, Any], *, split: str
) -> tuple[tuple[CaptionedImage, ...], tuple[str, ...]]:
    """The captioned images, and notes."""
    names: dict[str | None, str] = {}
    for number, image in enumerate(_get(str(path), data, "images", list)):
        where = f"{path}: image {number}"
        name, image_id = _get(where, image, "file_name", str), _get(where, image, "id", object)
        key = _name_id(where, image_id)
        if key in names:
            raise UserError(
                f"{where} has the same id as another, {key}: it is unclear whose captions they are"
            )
        names[key] = replace_halves(name)
    said: dict[str | None, list[tuple[str, Any]]] = {}
    for number, note in enumerate(_get(str(path), data, "annotations", list)):
        own = note.get("id") if isinstance(note, dict) else None
        where = f"{path}: annotation {number if own is None else f'with the id {own}'}"
        caption = _clean(_get(where, note, "caption", str))
        image_id = _name_id(where, _get(where, note, "image_id", object))
        said.setdefault(image_id, []).append((caption, note.get("id")))
    ties, ids = tie(list(said), list(names)), list(names)
    pairs = zip(said, ties.rows, strict=True)
    mine = {ids[row]: said[key] for key, row in pairs if row is not None}
    images = []
    for key, name in names.items():
        if key in mine:
            captions, caption_ids = _part(mine[key])
            images.append(CaptionedImage(name, captions, split, key, caption_ids=caption_ids))
    given, tied = sum(map(len, said.values())), sum(map(len, mine.values()))
    blank = tied - sum(len(image.captions) for image in images)
    notes = _count(path, given - tied, "captions belong to images that are not listed")
    return tuple(images), (*notes, *_count(path, blank, "captions are blank"), *ties.notes)


def _get(where: str, row: Any, key: str, kind: type, *, default: Any = None) -> Any:
    """A value that has to be there and of its kind."""
    value = row.get(key) if isinstance(row, dict) else None
    value = default if value is None else value
    if value is None or value == "" and kind is object:
        raise UserError(f"{where} lacks {key!r}")
    if not isinstance(value, kind):
        what = "text" if kind is str else "a list"
        raise UserError(f"{where} has a {key!r} that is not {what}: {value!r:.80}")
    return value


def _name_id(where: str, value: Any) -> str | None:
    try:
        return name_id(value)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _name_split(where: str, given: str) -> str:
    split = _SPLIT_NAMES.get(given.strip().lower(), given.strip().lower())
    if split not in SPLITS:
        known = ", ".join((*SPLITS, *_SPLIT_NAMES))
        raise UserError(f"{where} has the unknown split {given!r}; known: {known}")
    return split


def _count(path: Path, count: int, what: str) -> tuple[str, ...]:
    return (f"{path.name}: {count:,} {what}: left out",) if count else ()


def _part(said: list[tuple[str, Any]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Captions that are not blank, and their ids; no ids where one has none."""
    kept = [(caption, number) for caption, number in said if caption]
    ids = [number for _, number in kept]
    return tuple(caption for caption, _ in kept), () if None in ids else tuple(map(str, ids))


def _read_coco_folder(path: Path) -> CaptionSource:
    files = sorted(path.glob("captions_*.json")) or sorted(path.glob("annotations/captions_*.json"))
    if not files or not _one_per_split(files):
        raise UserError(
            f"{path} contains neither one captions_*.json per split nor the released code's "
            "{split}_ids.txt and {split}_caps.txt: specify one file"
        )
    images: list[CaptionedImage] = []
    notes: tuple[str, ...] = ()
    has_test = any(_official_split(file) == "test" for file in files)
    for file in files:
        data = read_json(file)
        if not isinstance(data, dict) or "images" not in data:
            raise UserError(f"{file} is not a COCO captions file")
        if "annotations" not in data:
            continue  # COCO publishes its test images without captions.
        found, said = _read_coco(file, data, split=_official_split(file) or "")
        images, notes = [*images, *found], (*notes, *said)
    source = CaptionSource(path, "coco", tuple(images), notes)
    if has_test or len(files) == 1:
        return source
    # COCO's own test captions are secret, so its val file has to give both val and test.
    halved = tuple(
        replace(i, split=_halve(i.file_name)) if i.split == "val" else i for i in source.images
    )
    note = "the val file is split into val and test by a hash of the file name"
    return replace(source, images=halved, notes=(*notes, note))


def _halve(file_name: str) -> str:
    return split_by_hash(file_name, shares=(0.5, 0.5))


def _one_per_split(files: Iterable[Path]) -> bool:
    splits = [_official_split(file) for file in files]
    return None not in splits and len(set(splits)) == len(splits)


def _official_split(file: Path) -> str | None:
    found = re.fullmatch(r"captions_(train|val|test)\d*", file.stem)
    return found.group(1) if found else None


def _read_flickr(path: Path) -> CaptionSource:
    """A table with a header, by the names of its columns, or `image#number<TAB>caption`."""
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    blank = 0
    for line, name, cell, split in _read_rows(path):
        where = f"{path}: line {line}"
        if not name:
            raise UserError(f"{where} has no image")
        said = [_clean(caption) for caption in list_captions(where, cell)]
        kept = [caption for caption in said if caption and caption not in NULLS]
        blank += len(said) - len(kept)
        captions.setdefault(name, []).extend(kept)
        if split is not None and splits.setdefault(name, _name_split(where, split)) != _name_split(
            where, split
        ):
            raise UserError(f"{where} has {name} in a different split than before")
    images = tuple(CaptionedImage(n, tuple(c), splits.get(n, "")) for n, c in captions.items())
    notes = _count(path, blank, "captions are blank")
    source = CaptionSource(path, "flickr", images, notes)
    return source if splits else _split_all(source)


def _read_rows(path: Path) -> Iterator[tuple[int, str, str, str | None]]:
    """Line, image, caption and split, None where the table has none."""
    if _TOKEN.match(read_text(path)):
        # Quotation marks are text here.
        for line, (name, *rest) in read_delimited(path, delimiter="\t", quotes=False):
            yield line, _NUMBERED.sub("", name.strip()), " ".join(rest), None
        return
    rows = read_delimited(path, delimiter=find_delimiter_of_captions(path))
    header = [name.strip().lower() for name in next(rows, (0, []))[1]]
    image, said = (_find_column(path, header, names) for names in (_IMAGES, _CAPTIONS))
    split = header.index("split") if "split" in header else None
    for line, cells in rows:
        if len(cells) > len(header) and said == len(header) - 1:
            # The caption stands last, and not everybody quotes a comma in it.
            cells = [*cells[:said], ",".join(cells[said:])]
        if len(cells) != len(header):
            raise UserError(
                f"{path}: line {line} has {len(cells)} columns, but the header has {len(header)}"
            )
        name = _NUMBERED.sub("", cells[image].strip())
        yield line, name, cells[said], None if split is None else cells[split]


def _find_column(path: Path, header: Sequence[str], names: set[str]) -> int:
    found = [place for place, name in enumerate(header) if name in names]
    if len(found) != 1:
        raise UserError(
            f"{path} is not a Flickr captions file: its first line is neither "
            "'image#number<TAB>caption' nor a header with one column of images "
            f"({', '.join(sorted(_IMAGES))}) and one of captions ({', '.join(sorted(_CAPTIONS))})"
        )
    return found[0]


def _split_all(source: CaptionSource) -> CaptionSource:
    images = tuple(replace(i, split=split_by_hash(i.file_name)) for i in source.images)
    note = "no splits in the source: 80/10/10 train/val/test by a hash of the file name"
    return replace(source, images=images, notes=(*source.notes, note))


def _clean(caption: str) -> str:
    return replace_halves(" ".join(caption.split()))


def _shown(path: Path) -> Path:
    """Relative to the current folder, if it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
