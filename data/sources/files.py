"""Image files: in a folder, matching a pattern, or in a list of paths or URLs."""

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from data.errors import UserError
from data.files.companions import is_companion
from data.files.formats import IMAGE_SUFFIXES
from data.sources.download import is_url
from data.sources.record import (
    ImageRecord,
    Listing,
    Source,
    keep_typed,
    make_sample_id,
    record_file,
    show_bytes,
)
from data.sources.records import Records

_MAGIC = frozenset("*?[")
_DEEP = re.compile(r"(?:^|(?<=/))\*\*(?:/|$)")
# A header or a row of a table of captions.
_TABLE = re.compile(r"image(_name)?[,;|\t]|[^\t]+\.\w{3,4}(#\d+\t|[,;|\t])", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LOGIN = re.compile(r"[^:]*://[^/?#]*@")


def is_pattern(text: str) -> bool:
    """Whether the path is a glob pattern."""
    return bool(_MAGIC & set(text)) and not os.path.lexists(text)


def match_files(pattern: str) -> list[Path]:
    """The files of a pattern (`**` for any depth), ordered by path.

    Below `**`, each real folder is entered once, as in `list_folder`.

    Raises:
        UserError: there are none, or a folder cannot be read.
    """
    deep = _DEEP.search(pattern)
    names = _match_below(pattern, pattern[: deep.start()]) if deep else glob.iglob(pattern)
    found = [path for path in map(Path, sorted(names)) if not path.is_dir()]
    if not found:
        raise UserError(f"no file matches {pattern}")
    return found


def _match_below(pattern: str, head: str) -> Iterator[str]:
    """The files below the folders that match `head`, the part of the pattern before `**`."""
    parts = [part for part in pattern[len(head) :].split("/") if part]
    first = _follow_deep({0}, parts)
    starts = glob.glob(head) if head else [""]
    # The last comes first: real folders keep their names, rather than those of links to them.
    starts.sort(key=lambda start: (os.path.islink(start.rstrip("/")), start), reverse=True)
    real, linked = [(start, first) for start in starts], list[tuple[str, frozenset[int]]]()
    # A folder is entered again by another name only if other parts of the pattern are left.
    entered: set[tuple[tuple[int, int], frozenset[int]]] = set()
    found: set[tuple[tuple[int, int], str]] = set()
    while real or linked:
        prefix, places = real.pop() if real else linked.pop(0)
        identity, entries = _scan(prefix or os.curdir)
        if (identity, places) in entered:
            continue
        entered.add((identity, places))
        for entry in entries:
            left = _follow(entry.name, places, parts)
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                real.append((name + "/", left))
            elif entry.is_symlink() and _leads_to_folder(entry):
                linked.append((name + "/", left))
            elif len(parts) in left and (identity, entry.name) not in found:
                found.add((identity, entry.name))
                yield name


def _follow(name: str, places: Iterable[int], parts: Sequence[str]) -> frozenset[int]:
    """Where in a pattern's parts one can be after one more name, from any of `places`."""
    after = set()
    for place in places:
        if place < len(parts) and parts[place] == "**":
            after.add(place)
        elif place < len(parts) and fnmatchcase(name, parts[place]):
            after.add(place + 1)
    return _follow_deep(after, parts)


def _follow_deep(places: set[int], parts: Sequence[str]) -> frozenset[int]:
    """`**` also stands for no folder."""
    for place in range(len(parts)):
        if place in places and parts[place] == "**":
            places.add(place + 1)
    return frozenset(places)


def open_pattern(pattern: str) -> Source:
    """A source of the files that match; names are relative to the folder before the first `*`."""
    before = pattern[: min(pattern.index(sign) for sign in _MAGIC if sign in pattern)]
    folder = os.path.dirname(before) or "."
    return Source("files", str(keep_typed(Path(folder))), {"pattern": pattern})


def list_pattern(source: Source, pattern: str) -> Listing:
    """Every matching file with an image's suffix.

    Raises:
        UserError: no image matches.
    """
    root, names, others = Path(source.root), [], 0
    for path in match_files(pattern):
        # Not resolved: a link keeps the name it was matched by.
        name = os.path.relpath(os.path.abspath(path), root)
        if is_companion(name.replace("../", "")):
            continue
        if path.suffix.lower() in IMAGE_SUFFIXES:
            names.append(name)
        else:
            others += 1
    if not names:
        raise UserError(f"none of the {others:,} files that match {pattern} is an image")
    passed = {"not an image's": others} if others else {}
    return Listing(Records.collect(record_file(name) for name in sorted(names)), passed)


def open_list(path: Path, *, root: Path | None) -> Source:
    """A source of the paths or URLs that a text file lists, one per line.

    Paths are relative to `root`, which is the list's own folder by default.

    Raises:
        UserError: the file cannot be read, is empty, or mixes paths and URLs.
    """
    folder = keep_typed(root or path.parent)
    lines, _ = _read_lines(path, folder)
    urls = sum(is_url(line) for line in lines)
    options = {"list": str(keep_typed(path))}
    _refuse_unfetched(path, lines, folder)
    if urls == len(lines):
        return Source("urls", "", options)
    if urls:
        raise UserError(
            f"{path} lists {urls} URLs among {len(lines)} lines: split it into two lists"
        )
    outside = [line for line in lines if not _inside(line, folder)]
    # Absolute paths elsewhere: names are then relative to the root of the file system.
    return Source("files", str(Path("/") if outside else folder), options)


def list_list(source: Source, *, root: Path | None) -> Listing:
    """The records of a list, in its order; repeated lines are counted and left out."""
    path = Path(source.options["list"])
    folder = keep_typed(root or path.parent)
    seen: dict[str, None] = {}
    again = 0
    lines, comments = _read_lines(path, folder)
    for line in lines:
        name = line if source.kind == "urls" else os.path.normpath(os.path.join(folder, line))
        again += name in seen
        seen[name] = None
    notes = (f"{again:,} lines of {path.name} repeat an earlier one",) if again else ()
    if comments:
        told = f"{comments:,} lines of {path.name} that begin with # and name no file are comments"
        notes = (*notes, told)
    if source.kind == "urls":
        return Listing(Records.collect(_record_url(url) for url in seen), notes=notes)
    if not any(os.path.lexists(name) for name in seen):
        way = "specify their folder with --image-root"
        if _TABLE.match(lines[0]):
            way = "for a table of captions, specify the folder of its images with --images"
        raise UserError(
            f"none of the {len(seen):,} files listed in {path} exists (for example "
            f"{next(iter(seen))}): {way}"
        )
    names = (os.path.relpath(name, source.root) for name in seen)
    return Listing(Records.collect(record_file(name) for name in names), notes=notes)


def _refuse_unfetched(path: Path, lines: Sequence[str], folder: Path) -> None:
    """UserError for URLs of other schemes, and for column options with URLs."""
    for line in lines:
        if is_url(line) and "\t" in line:
            raise UserError(
                f"{path} has more than a URL in a line ({line.split(chr(9))[0]}, ...): list "
                "the URLs alone, for example with cut -f 1"
            )
        if _SCHEME.match(line) and not is_url(line) and not os.path.lexists(folder / line):
            raise UserError(
                f"{path} lists {line}, but only http and https URLs are fetched: copy such "
                "files into a folder, and list their paths"
            )


def _record_url(url: str) -> ImageRecord:
    if _LOGIN.match(url):
        # It would be published in every row.
        raise UserError("a URL in the list contains a user name or a password: remove it")
    raw = url.encode("utf-8", "surrogateescape")
    url = show_bytes(raw)
    return ImageRecord(make_sample_id(raw), url, locator=b"url:" + raw, image_url=url)


def _read_lines(path: Path, folder: Path) -> tuple[list[str], int]:
    """The lines of a list without empty ones and comments, and the number of comments.

    A line that begins with # is a comment unless a file below `folder` has that name.
    """
    try:
        text = path.read_text("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"the list {path} cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise UserError(f"{path} is not a list of paths or URLs: it is not UTF-8 text")
    lines = [_settle_line(raw.rstrip("\r"), folder) for raw in text.split("\n") if raw.strip()]
    named = [x for x in lines if not x.startswith("#") or os.path.lexists(folder / x)]
    if not named:
        raise UserError(f"the list {path} is empty")
    return named, len(lines) - len(named)


def _settle_line(line: str, folder: Path) -> str:
    """Without blanks around it, and with / for Windows' \\, unless that is how a file is called."""
    bare = line.strip()
    if is_url(bare) or (bare == line and "\\" not in line) or os.path.lexists(folder / line):
        return bare if is_url(bare) else line
    turned = bare.replace("\\", "/")
    return turned if os.path.lexists(folder / turned) else bare


def _inside(line: str, folder: Path) -> bool:
    whole = os.path.normpath(os.path.join(folder, line))
    return whole.startswith(str(folder).rstrip("/") + "/")


def list_folder(folder: Path, *, exclude: Sequence[Path] = ()) -> Listing:
    """All images under `folder`, ordered by relative path.

    Symbolic links are followed; each real folder is entered once, so that loops end. Hidden files,
    those that other tools leave, and the folders in `exclude` (our own outputs) are skipped. A
    pipe, device or dead link with an image's extension is listed and becomes an error row.

    Raises:
        UserError: `folder` is missing, is not a folder, or contains no image.
    """
    if not folder.exists():
        raise UserError(f"the image folder {folder} does not exist")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder of images")
    names: list[str] = []
    others: Counter[str] = Counter()
    for name in walk_files(folder, exclude=exclude):
        suffix = os.path.splitext(name)[1].lower()
        if suffix in IMAGE_SUFFIXES:
            names.append(name)
        else:
            others[os.fsencode(suffix).decode("utf-8", "backslashreplace")] += 1
    if not names:
        seen = f"; the {others.total()} files there have other endings" if others else ""
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"no images in {folder}{seen} (looked for {kinds})")
    records = Records.collect(record_file(name) for name in sorted(names))
    return Listing(records, dict(others.most_common()))


def walk_files(folder: Path, *, exclude: Sequence[Path] = ()) -> Iterator[str]:
    """Relative names of all files; real folders before linked ones, so that those keep a name.

    Raises:
        UserError: a folder cannot be read.
    """
    entered = {_identity(path.stat()) for path in exclude if path.exists()}
    real: list[str] = [""]
    linked: list[str] = []
    while real or linked:
        prefix = real.pop() if real else linked.pop(0)
        identity, entries = _scan(os.path.join(folder, prefix))
        if identity in entered:
            continue
        entered.add(identity)
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                real.append(name + "/")
            elif entry.is_symlink() and _leads_to_folder(entry):
                linked.append(name + "/")
            else:
                yield name


def _scan(path: str) -> tuple[tuple[int, int], list["os.DirEntry[str]"]]:
    """The identity of a folder, and what is in it by name."""
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        found = [entry for entry in entries if not is_companion(entry.name)]
        return _identity(os.stat(path)), found
    except OSError as error:
        raise UserError(f"the folder {path} cannot be read: {error.strerror}") from error


def _leads_to_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return stat.S_ISDIR(os.stat(entry.path).st_mode)
    except OSError:
        # A dead link, or one of a ring of links: an image's name makes it an error row.
        return False


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
