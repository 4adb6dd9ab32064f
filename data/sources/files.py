"""Images named one by one: a pattern, a list of paths, a list of addresses."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from data.errors import UserError
from data.sources.folder import IMAGE_SUFFIXES
from data.sources.record import (
    ImageRecord,
    Listing,
    Source,
    make_sample_id,
    record_file,
    show_bytes,
)
from data.sources.records import Records

_MAGIC = frozenset("*?[")


def is_pattern(text: str) -> bool:
    """Whether it has to be matched against the file system."""
    return bool(_MAGIC & set(text)) and not os.path.lexists(text)


def match_files(pattern: str) -> list[Path]:
    """The files of a pattern (`**` for any depth), ordered by path.

    Raises:
        UserError: none.
    """
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    found = [path for path in found if not path.is_dir()]
    if not found:
        raise UserError(f"no file matches {pattern}")
    return found


def open_pattern(pattern: str) -> Source:
    """A source of the files that match; names are relative to the folder before the first `*`."""
    before = pattern[: min(pattern.index(sign) for sign in _MAGIC if sign in pattern)]
    folder = os.path.dirname(before) or "."
    return Source("files", str(Path(folder).resolve()), {"pattern": pattern})


def list_pattern(source: Source, pattern: str) -> Listing:
    """Every matching file with an image's suffix.

    Raises:
        UserError: no image matches.
    """
    root, names, others = Path(source.root), [], 0
    for path in match_files(pattern):
        # Not resolved: a link keeps the name it was matched by.
        name = os.path.relpath(os.path.abspath(path), root)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            names.append(name)
        else:
            others += 1
    if not names:
        raise UserError(f"none of the {others:,} files that match {pattern} is an image")
    passed = {"not an image's": others} if others else {}
    return Listing(Records.collect(record_file(name) for name in sorted(names)), passed)


def open_list(path: Path, *, root: Path | None) -> Source:
    """A source of the paths, or of the addresses, that a text file lists, one a line.

    Paths are relative to `root`, which is the list's own folder by default.

    Raises:
        UserError: the file cannot be read, is empty, or mixes paths and addresses.
    """
    lines = _read_lines(path)
    urls = sum(_is_url(line) for line in lines)
    options = {"list": str(path.resolve())}
    if urls == len(lines):
        return Source("urls", "", options)
    if urls:
        raise UserError(
            f"{path} lists {urls} addresses among {len(lines)} lines: make it two lists"
        )
    folder = (root or path.parent).resolve()
    outside = [line for line in lines if not _inside(line, folder)]
    # Absolute paths elsewhere: the names are then those below the file system's root.
    return Source("files", str(Path("/") if outside else folder), options)


def list_list(source: Source, *, root: Path | None) -> Listing:
    """The records of a list, in its order; a line that comes again is counted and left out."""
    path = Path(source.options["list"])
    folder = (root or path.parent).resolve()
    seen: dict[str, None] = {}
    again = 0
    for line in _read_lines(path):
        name = line if source.kind == "urls" else os.path.normpath(os.path.join(folder, line))
        again += name in seen
        seen[name] = None
    notes = (f"{again:,} lines of {path.name} repeat an earlier one",) if again else ()
    if source.kind == "urls":
        return Listing(Records.collect(_record_url(url) for url in seen), notes=notes)
    if not any(os.path.lexists(name) for name in seen):
        raise UserError(
            f"none of the {len(seen):,} files that {path} lists is there ({next(iter(seen))} for "
            "example): name their folder with --image-root"
        )
    names = (os.path.relpath(name, source.root) for name in seen)
    return Listing(Records.collect(record_file(name) for name in names), notes=notes)


def _record_url(url: str) -> ImageRecord:
    if "@" in urlsplit(url).netloc:
        # It would stand in every row of what is published.
        raise UserError("an address of the list holds a user name or a password: leave it out")
    raw = url.encode("utf-8", "surrogateescape")
    url = show_bytes(raw)
    return ImageRecord(make_sample_id(raw), url, locator=b"url:" + raw, image_url=url)


def _read_lines(path: Path) -> Sequence[str]:
    try:
        text = path.read_text("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"the list {path} cannot be read: {error.strerror}") from error
    lines = [line.rstrip("\r") for line in text.split("\n")]
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if not lines:
        raise UserError(f"the list {path} is empty")
    binary = next((line for line in lines if "\0" in line), None)
    if binary is not None:
        raise UserError(f"{path} is no list of paths or addresses: it is no text")
    return lines


def _is_url(line: str) -> bool:
    return line.startswith(("http://", "https://"))


def _inside(line: str, folder: Path) -> bool:
    whole = os.path.normpath(os.path.join(folder, line))
    return whole.startswith(str(folder).rstrip("/") + "/")
