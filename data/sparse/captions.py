"""Sparse captions and splits: Karpathy JSON, COCO, Flickr captions.txt, released D2S-VSE files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from data.errors import UserError
from data.files.text_files import (
    DELIMITERS,
    NULLS,
    find_delimiter,
    list_captions,
    read_delimited,
    read_json,
    read_text,
)
from data.sparse.json_files import read_caption_json, read_coco
from data.sparse.released import is_released_folder, list_released_files, read_released_folder
from data.sparse.source import CaptionedImage, CaptionSource, split_all, split_by_hash
from data.sparse.values import clean_caption, count_left_out, name_split

USUAL_NAMES = ("dataset_*.json", "annotations/captions_*.json", "captions.txt", "*_ids.txt")
# Usual names of the columns in a table of captions, in lower case.
_IMAGES = {"image", "image_name", "image_file", "file_name", "filename"}
_CAPTIONS = {"caption", "caption_text", "comment", "raw", "sentence", "text"}
# `1.jpg#0<TAB>caption`, without a header.
_TOKEN = re.compile(r"([^\t]+?)#[0-9]+\t")
_NUMBERED = re.compile(r"#[0-9]+$")


def find_captions(images: Path) -> Path:
    """The only caption source in the image folder or next to it.

    COCO's `annotations` folder with one file per official split counts as one source, and so do the
    files of the released code in one folder.

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
    # The path as typed comes first: a link may have its captions next to it.
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


def read_captions(path: Path, *, whole: bool = False) -> CaptionSource:
    """Read a caption file, COCO's `annotations` folder or the released code's, whatever its kind.

    `whole` includes images without captions from COCO's JSON and from lists.

    Raises:
        UserError: missing, unreadable, of an unknown kind, or without images.
    """
    if path.is_dir():
        released = is_released_folder(path)
        source = read_released_folder(path) if released else _read_coco_folder(path)
    elif not path.is_file():
        raise UserError(f"the captions {path} do not exist")
    elif path.suffix.lower() == ".json":
        source = read_caption_json(path, whole=whole)
    else:
        source = _read_flickr(path)
    if not source.images or not (whole or any(image.captions for image in source.images)):
        raise UserError(f"{path} contains no captioned image")
    names = Counter(image.file_name for image in source.images)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UserError(f"{path} lists {len(twice)} images twice, for example {twice[0]}")
    return source


def list_caption_files(path: Path) -> list[Path]:
    """The files that `read_captions` reads, except those of dense text.

    Raises:
        UserError: a folder of an unknown kind.
    """
    if not path.is_dir():
        return [path]
    return list_released_files(path) if is_released_folder(path) else _list_coco_files(path)


def find_delimiter_of_captions(path: Path) -> str | None:
    """The delimiter of a table of captions, None if the header is not that of such a table."""
    first = read_text(path).split("\n", 1)[0].lower()
    cells = {sign: {cell.strip(' "\r') for cell in first.split(sign)} for sign in DELIMITERS}
    return next((s for s in DELIMITERS if cells[s] & _IMAGES and cells[s] & _CAPTIONS), None)


def _list_coco_files(path: Path) -> list[Path]:
    files = sorted(path.glob("captions_*.json")) or sorted(path.glob("annotations/captions_*.json"))
    if not files or not _one_per_split(files):
        raise UserError(
            f"{path} contains neither one captions_*.json per split nor the released code's "
            "{split}_ids.txt and {split}_caps.txt: specify one file"
        )
    return files


def _read_coco_folder(path: Path) -> CaptionSource:
    files = _list_coco_files(path)
    images: list[CaptionedImage] = []
    notes: tuple[str, ...] = ()
    has_test = any(_official_split(file) == "test" for file in files)
    for file in files:
        data = read_json(file)
        if not isinstance(data, dict) or "images" not in data:
            raise UserError(f"{file} is not a COCO captions file")
        if "annotations" not in data:
            continue  # COCO publishes its test images without captions.
        found, said = read_coco(file, data, split=_official_split(file) or "")
        images, notes = [*images, *found], (*notes, *said)
    source = CaptionSource(path, "coco", tuple(images), notes)
    if has_test or len(files) == 1:
        return source
    # COCO's own test captions are secret, so its val file is split into val and test.
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
        said = [clean_caption(caption) for caption in list_captions(where, cell)]
        kept = [caption for caption in said if caption and caption not in NULLS]
        blank += len(said) - len(kept)
        captions.setdefault(name, []).extend(kept)
        if split is not None and splits.setdefault(name, name_split(where, split)) != name_split(
            where, split
        ):
            raise UserError(f"{where} has {name} in a different split than before")
    images = tuple(CaptionedImage(n, tuple(c), splits.get(n, "")) for n, c in captions.items())
    notes = count_left_out(path, blank, "captions are blank")
    source = CaptionSource(path, "flickr", images, notes)
    return source if splits else split_all(source)


def _read_rows(path: Path) -> Iterator[tuple[int, str, str, str | None]]:
    """Line, image, caption and split (None if the table has none)."""
    if _TOKEN.match(read_text(path)):
        # Quotation marks are text here.
        for line, (name, *rest) in read_delimited(path, delimiter="\t", quotes=False):
            yield line, _NUMBERED.sub("", name.strip()), " ".join(rest), None
        return
    sign = find_delimiter_of_captions(path) or find_delimiter(read_text(path))
    rows = read_delimited(path, delimiter=sign, strip=False)
    header = [name.strip().lower() for name in next(rows, (0, []))[1]]
    image, said = (_find_column(path, header, names) for names in (_IMAGES, _CAPTIONS))
    split = header.index("split") if "split" in header else None
    for line, cells in rows:
        if len(cells) > len(header) and said == len(header) - 1:
            # The caption is last, and delimiters in it are not always quoted.
            cells = [*cells[:said], sign.join(cells[said:])]
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


def _shown(path: Path) -> Path:
    """Relative to the current folder, if it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
