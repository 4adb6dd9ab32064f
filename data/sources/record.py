"""Records of images, listings of sources, and checks whether a source still exists."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files.hashes import stamp_files, stamp_folder


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image to caption.

    `file_name` is the name within the source, with "/" between its parts; a byte that is not UTF-8
    is written as `\\xff`. `locator` says where the image is where the name alone does not, as
    `data.sources.reader` understands it: `path:` and the path's own bytes, `url:`, `tar:`,
    `parquet:`, `row:` or `entry:`. `columns` are (name, text) pairs of the columns that a prompt
    reads, if requested (data.tables.columns).
    """

    sample_id: str
    file_name: str
    locator: bytes | None = None
    image_id: str | None = None
    split: str | None = None
    image_url: str | None = None
    captions: tuple[str, ...] | None = None
    columns: tuple[tuple[str, str], ...] | None = None

    @property
    def address(self) -> bytes:
        """The address to pass to an ImageReader of the record's source."""
        return self.locator if self.locator is not None else b"path:" + self.file_name.encode()

    def locate(self, folder: Path) -> Path:
        """The path of the image, given the source's folder. Only for sources of files."""
        scheme, _, rest = self.address.partition(b":")
        if scheme != b"path":
            raise ValueError(f"{self.file_name} is not a file of a folder")
        return folder / os.fsdecode(rest)


@dataclass(frozen=True)
class Listing:
    """The images of a source in order.

    `records` are Records, if there may be many. `passed_over` counts the files that are not images,
    by suffix; `notes` are lines for the user.
    """

    records: Sequence[ImageRecord]
    passed_over: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A source of images, as recorded by a run and passed to the decoding processes.

    `kind` is folder, files, urls, tar, parquet or dataset; `root` the folder that paths are
    relative to; `options` whatever the kind's reader needs, as JSON.
    """

    kind: str
    root: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For run.json and for a decoding process."""
        return {"kind": self.kind, "root": self.root, "options": dict(self.options)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Source":
        """The inverse of `to_dict`."""
        return cls(values["kind"], values["root"], dict(values["options"]))


def make_sample_id(name: bytes) -> str:
    """The id of a name: the same on every machine and for every subset."""
    return hashlib.sha256(name).hexdigest()[:16]


def keep_typed(path: Path) -> Path:
    """A path as typed, made absolute without resolving links: their neighbors matter."""
    whole = Path(os.path.abspath(path))
    # After a link, ".." leads elsewhere than it seems.
    return whole if os.path.realpath(whole) == os.path.realpath(path) else path.resolve()


def find_below(folder: Path) -> Path | None:
    """A folder relative to the current folder; None if it is elsewhere."""
    here = Path.cwd()
    places = (place for place in (folder, folder.resolve()) if place.is_relative_to(here))
    return next((place.relative_to(here) for place in places), None)


def name_containers(files: Sequence[str]) -> list[str]:
    """The base names of archives or tables; relative paths if two are the same."""
    names = [os.path.basename(name) for name in files]
    if len(set(names)) == len(names):
        return names
    folder = os.path.commonpath([os.path.dirname(name) for name in files])
    return [os.path.relpath(name, folder) for name in files]


def show_bytes(name: bytes) -> str:
    """Text that can be stored anywhere; a byte that is not UTF-8 becomes `\\xff`."""
    return name.decode("utf-8", "backslashreplace")


def clean_record(record: ImageRecord) -> ImageRecord:
    """The record with texts that can be stored: half of a surrogate pair becomes "?"."""
    texts = (record.file_name, record.image_id, record.split, record.image_url)
    try:
        "".join([*(text or "" for text in texts), *(record.captions or ())]).encode()
    except UnicodeEncodeError:
        return replace(
            record,
            file_name=_clean(record.file_name) or "",
            image_id=_clean(record.image_id),
            split=_clean(record.split),
            image_url=_clean(record.image_url),
            captions=record.captions and tuple(_clean(text) or "" for text in record.captions),
        )
    return record


def _clean(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode()


def record_file(name: str, **known: Any) -> ImageRecord:
    """The record of a file; `name` is its path below the source's root, as the system gives it."""
    raw = os.fsencode(name)
    shown = show_bytes(raw)
    return ImageRecord(
        sample_id=make_sample_id(raw),
        file_name=shown,
        locator=b"path:" + raw if shown.encode() != raw else None,
        **known,
    )


def find_loss(source: Source) -> str | None:
    """The part of a source that is gone: its folder, or one of its archives or tables; else None.

    A single missing image does not count.
    """
    files = source.options.get("files", [])
    lost = next((name for name in files if not os.path.isfile(name)), None)
    if lost is not None:
        return str(lost)
    folder = source.root
    if source.kind == "dataset":
        # A name that is not a path is on the Hub.
        folder = source.options["name"] if os.path.isabs(source.options["name"]) else ""
    return folder if folder and not os.path.isdir(folder) else None


def find_change(source: Source) -> str | None:
    """The archive, table or local data set that is not the recorded one; None if there is none.

    Their images are read by position. What is gone does not count: see `find_loss`.
    """
    kind, options = source.kind, source.options
    if kind == "dataset":
        return _find_other([options["name"]], options, stamp_folder)
    if kind in ("tar", "parquet"):
        return _find_other(options["files"], options, lambda path: stamp_files([path]))
    return None


def _find_other(
    names: Sequence[str], options: Mapping[str, Any], stamp: Callable[[Path], str]
) -> str | None:
    # Data sets of the Hub have a revision instead.
    for name, recorded in zip(names, options.get("stamps", ()), strict=False):
        with contextlib.suppress(UserError):
            if os.path.exists(name) and stamp(Path(name)) != recorded:
                return name
    return None
