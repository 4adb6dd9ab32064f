"""Tar files and WebDataset shards: images read in place, captions from the accompanying files."""

import json
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files.companions import is_companion
from data.files.formats import IMAGE_SUFFIXES, describe_bytes
from data.files.hashes import stamp_files
from data.matching import name_id, tie
from data.sources.record import (
    ImageRecord,
    Listing,
    Source,
    keep_typed,
    make_sample_id,
    name_containers,
)
from data.sources.records import Records

# Larger files are not captions.
_MOST_TEXT_BYTES = 1 << 20
# As many links to links as Linux follows; more are a circle.
_MOST_STEPS = 40
# In place of a larger `.json`, which is known by its identity.
_TOO_LARGE: dict[str, Any] = {}


def open_archives(files: Sequence[Path]) -> Source:
    """A source of tar files; their members are not read yet."""
    options = {
        "files": [str(keep_typed(path)) for path in files],
        "stamps": [stamp_files([path]) for path in files],
    }
    return Source("tar", str(keep_typed(files[0]).parent), options)


def list_archives(source: Source) -> Listing:
    """One record per image, in the order of files and members; contents stay in the archives.

    An image's `.txt` is a human caption; its `.json` can contain `caption`, `captions`, `url` or
    `image_id`. In an export of d2s, only `captions` are human. A `.json` that is too large to be
    read could be from an export, so the `.txt` beside it is not used. The intact part of a
    truncated or damaged archive is listed; a file that is not an archive is left out, and so is a
    link, unless it leads to an image of the same archive. All of this is reported.

    Raises:
        UserError: a file cannot be read, or none contains an image.
    """
    passed_over: Counter[str] = Counter()
    notes: list[str] = []
    records = Records.collect(_iterate_records(source.options["files"], passed_over, notes))
    if not records:
        files = ", ".join(source.options["files"][:3])
        raise UserError("; ".join([f"no images in {files}", *notes[:3]]))
    return Listing(records, dict(passed_over), tuple(notes))


def _iterate_records(
    files: Sequence[str], passed_over: Counter[str], notes: list[str]
) -> Iterator[ImageRecord]:
    spare = unread = again = unsure = lost = 0
    for number, (path, shown) in enumerate(zip(files, name_containers(files), strict=True)):
        archive = _Archive(path)
        passed_over.update(archive.others)
        texts, abouts = archive.tie(".txt"), archive.tie(".json")
        notes.extend(archive.notes)
        for name, (offset, size) in archive.images.items():
            place = _name_place(number, offset, size)
            about = abouts.get(name, {})
            if about is _TOO_LARGE:
                unsure += texts.pop(name, None) is not None
            yield _make_record(f"{shown}/{name}", place, texts.get(name), about)
        spare += archive.count_texts() - archive.used
        unread += archive.unread
        again += archive.again
        lost += archive.lost
    if spare:
        notes.append(f"{spare:,} texts (.txt, .json) in the archives do not belong to an image")
    if unread:
        told = "are not UTF-8 or not a JSON object: left out"
        notes.append(f"{unread:,} texts (.txt, .json) of the archives {told}")
    if unsure:
        notes.append(
            f"{unsure:,} .txt of the archives are not used as human captions: they could be from "
            "an export of d2s, because the .json beside them is too large to be read"
        )
    if again:
        notes.append(
            f"{again:,} members of the archives have the same name as a later one: left out"
        )
    if lost:
        notes.append(f"{lost:,} links of the archives lead to no image in them: left out")


def read_abouts(source: Source) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The locator of each image and the object of its `.json`, in the order of the records.

    Raises:
        UserError: a file cannot be read.
    """
    for number, path in enumerate(source.options["files"]):
        archive = _Archive(path)
        abouts = archive.tie(".json")
        for name, (offset, size) in archive.images.items():
            yield _name_place(number, offset, size), abouts.get(name) or {}


def is_own(about: Mapping[str, Any]) -> bool:
    """Whether these are fields of an export of d2s: the `.json` of an image, or columns."""
    return "run_id" in about and "status" in about


def _name_place(number: int, offset: int, size: int) -> bytes:
    return f"tar:{number}:{offset}:{size}".encode()


class _Archive:
    """One tar file's members in order: the locations of images, and the bytes of texts."""

    def __init__(self, path: str) -> None:
        self.images: dict[str, tuple[int, int]] = {}
        # None for one that cannot be read.
        self.texts: dict[str, dict[str, Any]] = {".txt": {}, ".json": {}}
        self.others: Counter[str] = Counter()
        self.notes: list[str] = []
        self.used = self.unread = self.again = self.lost = 0
        # The normalized targets of links whose image was not found before them.
        self._links: dict[str, str] = {}
        try:
            # "r:" does not accept compression: images are later read by their offset.
            with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
                self._read(archive)
                self._check_end(archive, path)
        except OSError as error:
            # Only a TarError concerns this file alone; an OSError of the disk does not.
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        except (tarfile.TarError, EOFError) as error:
            self._explain(path, error)
        self._follow_links()

    def _read(self, archive: tarfile.TarFile) -> None:
        for member in archive:
            name, place = member.name, (member.offset_data, member.size)
            suffix = posixpath.splitext(name)[1].lower()
            if member.islnk() and member.linkname in self.images:
                place = self.images[member.linkname]
            elif not member.isreg():
                self._note_link(member)
                continue
            if is_companion(name):
                continue
            if suffix in IMAGE_SUFFIXES:
                self.again += name in self.images
                self.images[name] = place
            elif suffix in self.texts and member.size < _MOST_TEXT_BYTES:
                file = archive.extractfile(member)
                assert file is not None
                stem, text = posixpath.splitext(name)[0], _read_text(file.read(), suffix)
                self.again += stem in self.texts[suffix]
                self.unread += text is None
                self.texts[suffix][stem] = text
            else:
                self.others[suffix] += 1
                if suffix == ".json":
                    self.texts[suffix][posixpath.splitext(name)[0]] = _TOO_LARGE

    def _note_link(self, member: tarfile.TarInfo) -> None:
        name, target = member.name, member.linkname
        image = posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES and not is_companion(name)
        if image and (member.islnk() or member.issym()):
            # Only symbolic links are relative to their own folder.
            folder = posixpath.dirname(name) if member.issym() else ""
            self._links[name] = posixpath.normpath(posixpath.join(folder, target))

    def _follow_links(self) -> None:
        """Add the links that lead to an image, directly or through other links."""
        if not self._links:
            return
        places = {posixpath.normpath(name): place for name, place in self.images.items()}
        steps = {posixpath.normpath(name): target for name, target in self._links.items()}
        for name, target in self._links.items():
            for _ in range(_MOST_STEPS):
                target = target if target in places else steps.get(target, target)
            if target in places:
                self.again += name in self.images
                self.images.setdefault(name, places[target])
            else:
                self.lost += 1

    def count_texts(self) -> int:
        """How many texts there are, without those that are too large to be read."""
        found = [text for texts in self.texts.values() for text in texts.values()]
        return sum(text is not _TOO_LARGE for text in found)

    def _check_end(self, archive: tarfile.TarFile, path: str) -> None:
        """tarfile mistakes a damaged header for the end, and reads nothing after an end."""
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        rest = archive.fileobj.read(tarfile.BLOCKSIZE)
        cut = len(rest) < tarfile.BLOCKSIZE
        while rest and not rest.strip(b"\0"):
            rest = archive.fileobj.read(1 << 20)
        if cut or rest:
            what = "is cut off" if cut else "is damaged, or continues after its end,"
            self._note(f"{path} {what} at byte {archive.offset:,}")

    def _explain(self, path: str, error: Exception) -> None:
        if self.images or any(self.texts.values()):
            self._note(f"{path} is cut off or damaged ({error})")
            return
        with open(path, "rb") as file:
            content = file.read(4096)
        what = describe_bytes(content) if content else "it is empty"
        self.notes.append(
            f"{path} cannot be read as a tar file ({what}): unpack it if it is compressed, "
            "download it again, or leave it out of --images"
        )

    def _note(self, what: str) -> None:
        self.notes.append(f"{what}: only the {len(self.images):,} images before that are read")

    def tie(self, suffix: str) -> dict[str, Any]:
        """The readable texts of one suffix, by the name of their image.

        A text has the whole name of its image, with or without the image's suffix; no two images
        share one. The rest are matched by another spelling, or by a WebDataset key, which ends at
        the first dot, if exactly one text and one image share it.
        """
        texts = self.texts[suffix]
        stems = {name: posixpath.splitext(name)[0] for name in self.images}
        tied = {name: name for name in stems if name in texts}
        shared = Counter(stem for name, stem in stems.items() if name not in tied)
        alone = {name: stem for name, stem in stems.items() if shared[stem] == 1}
        tied |= {name: stem for name, stem in alone.items() if stem in texts and name not in tied}
        if len(tied) < len(texts):
            # All of them are considered, so that a text that also fits another image is not
            # matched.
            ties, known = tie(list(stems.values()), list(texts)), list(texts)
            self.notes.extend(ties.notes)
            for name, row in zip(stems, ties.rows, strict=True):
                if row is not None and name in alone:
                    tied.setdefault(name, known[row])
        spare = _by_key(texts.keys() - set(tied.values()))
        bare = _by_key(stems.keys() - tied.keys())
        for key in spare.keys() & bare.keys():
            if len(spare[key]) == len(bare[key]) == 1:
                tied[bare[key][0]] = spare[key][0]
        self.used += sum(texts[stem] is not _TOO_LARGE for stem in tied.values())
        return {name: texts[stem] for name, stem in tied.items() if texts[stem] is not None}


def _by_key(names: set[str]) -> dict[str, list[str]]:
    """`a/b.c.jpg` has the key `a/b`."""
    found: dict[str, list[str]] = {}
    for name in names:
        folder, base = posixpath.split(name)
        found.setdefault(posixpath.join(folder, base.partition(".")[0]), []).append(name)
    return found


def _read_text(content: bytes, suffix: str) -> Any:
    """A caption, or the object of a JSON file; None for anything else."""
    try:
        text = content.decode("utf-8-sig")
        about = json.loads(text) if suffix == ".json" else text
    except (ValueError, RecursionError):
        # Third-party metadata: used if it can be read.
        return None
    return about if isinstance(about, str if suffix == ".txt" else dict) else None


def _make_record(name: str, place: bytes, said: str | None, about: dict[str, Any]) -> ImageRecord:
    # The other texts of an export are the captioner's.
    captions = about.get("captions") or (not is_own(about) and (said or about.get("caption")))
    listed = [captions] if isinstance(captions, str) else captions
    listed = listed if isinstance(listed, list) else []
    cleaned = tuple(" ".join(text.split()) for text in listed if isinstance(text, str))
    try:
        image_id = name_id(about.get("image_id", about.get("id")))
    except ValueError:
        image_id = None
    url = about.get("url", about.get("image_url"))
    raw = name.encode("utf-8", "surrogateescape")
    return ImageRecord(
        sample_id=make_sample_id(raw),
        file_name=raw.decode("utf-8", "backslashreplace"),
        locator=place,
        image_id=image_id,
        image_url=url if isinstance(url, str) else None,
        captions=tuple(text for text in cleaned if text) or None,
    )
