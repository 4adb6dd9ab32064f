"""The images below a folder, in a fixed order, whatever the file system says."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.errors import UserError
from data.sources.record import Listing, record_file
from data.sources.records import Records

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pnm", ".avif"}
)


def list_folder(folder: Path, *, exclude: Sequence[Path] = ()) -> Listing:
    """All images under `folder`, ordered by relative path.

    Symbolic links are followed, each real folder being entered once, so that loops end. Hidden
    files and folders are passed over, and so are the folders in `exclude` (our own outputs). A
    name that ends like an image's but is a pipe, a device or a dead link is listed: it becomes an
    error row.

    Raises:
        UserError: `folder` is missing, is no folder, or holds no image.
    """
    if not folder.exists():
        raise UserError(f"the images folder {folder} does not exist")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: --images takes a folder of images")
    names: list[str] = []
    others: Counter[str] = Counter()
    for name in _walk(folder, exclude):
        suffix = os.path.splitext(name)[1].lower()
        if suffix in IMAGE_SUFFIXES:
            names.append(name)
        else:
            others[os.fsencode(suffix).decode("utf-8", "backslashreplace")] += 1
    if not names:
        seen = f"; the {others.total()} files there end otherwise" if others else ""
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"no images in {folder}{seen} (looked for {kinds})")
    records = Records.collect(record_file(name) for name in sorted(names))
    return Listing(records, dict(others.most_common()))


def _walk(folder: Path, exclude: Sequence[Path]) -> Iterator[str]:
    """Relative names of all files; real folders before linked ones, so that those keep a name."""
    entered = {_identity(path.stat()) for path in exclude if path.exists()}
    real: list[str] = [""]
    linked: list[str] = []
    while real or linked:
        prefix = real.pop() if real else linked.pop(0)
        path = os.path.join(folder, prefix)
        try:
            identity = _identity(os.stat(path))
            if identity in entered:
                continue
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"the folder {path} cannot be read: {error.strerror}") from error
        entered.add(identity)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                real.append(name + "/")
            elif entry.is_symlink() and _leads_to_folder(entry):
                linked.append(name + "/")
            else:
                yield name


def _leads_to_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return stat.S_ISDIR(os.stat(entry.path).st_mode)
    except OSError:
        # A dead link, or one of a ring of links: an image's name makes it an error row.
        return False


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
