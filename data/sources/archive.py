"""Tar files and WebDataset shards: images where they lie, captions from the files beside them."""

import json
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files.hashes import stamp_files
from data.formats import IMAGE_SUFFIXES
from data.sources.record import ImageRecord, Listing, Source, make_sample_id
from data.sources.records import Records

# Larger ones are no captions.
_MOST_TEXT_BYTES = 1 << 20


def open_archives(files: Sequence[Path]) -> Source:
    """A source of tar files; their members are not looked at yet."""
    options = {
        "files": [str(path.resolve()) for path in files],
        "stamps": [stamp_files([path]) for path in files],
    }
    return Source("tar", str(files[0].resolve().parent), options)


def list_archives(source: Source) -> Listing:
    """One record per image, in the order of files and members; contents stay in the archives.

    As in a WebDataset, members that share all of their name up to its first dot are one sample: its
    `.txt` is a human caption, its `.json` may hold `caption`, `captions`, `url` or `image_id`.

    Raises:
        UserError: a file is no tar file, is compressed, or none holds an image.
    """
    passed_over: dict[str, int] = {}
    records = Records.collect(_iterate_records(source, passed_over))
    if not records:
        raise UserError(f"no images in {', '.join(source.options['files'][:3])}")
    return Listing(records, passed_over)


def _iterate_records(source: Source, passed_over: dict[str, int]) -> Iterator[ImageRecord]:
    for number, name in enumerate(source.options["files"]):
        for sample in _read_samples(Path(name), number):
            suffix = sample.get("other")
            if suffix is not None:
                passed_over[suffix] = passed_over.get(suffix, 0) + 1
            else:
                yield _make_record(Path(name).name, sample)


def _read_samples(path: Path, number: int) -> Iterator[dict[str, Any]]:
    """{"name", "locator", "text", "about"} per image; {"other": suffix} for files that are none."""
    group: list[dict[str, Any]] = []
    texts: dict[str, Any] = {}
    key = None
    for member, content in _walk(path):
        own, suffix = _split_name(member.name)
        if own != key:
            yield from ({**sample, **texts} for sample in group)
            group, texts, key = [], {}, own
        if suffix in IMAGE_SUFFIXES:
            place = f"tar:{number}:{member.offset_data}:{member.size}".encode()
            group.append({"name": member.name, "locator": place})
        elif suffix == ".txt" and content is not None:
            texts["text"] = content.decode("utf-8", "replace")
        elif suffix == ".json" and content is not None:
            texts["about"] = _parse(content)
        else:
            yield {"other": suffix}
    yield from ({**sample, **texts} for sample in group)


def _walk(path: Path) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Regular members, with the content of small texts."""
    try:
        # "r:" takes no compression: an image is later read by its offset.
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isreg() or posixpath.basename(member.name).startswith("."):
                    continue
                wanted = member.name.endswith((".txt", ".json")) and member.size < _MOST_TEXT_BYTES
                file = archive.extractfile(member) if wanted else None
                yield member, file.read() if file is not None else None
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read as a tar file ({error}); unpack it if it is compressed"
        ) from error


def _split_name(name: str) -> tuple[str, str]:
    """`a/b.c.jpg` -> (`a/b`, `.jpg`): the key ends at the first dot of the base name."""
    folder, base = posixpath.split(name)
    stem, _, _ = base.partition(".")
    return posixpath.join(folder, stem), posixpath.splitext(base)[1].lower()


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        # Somebody else's metadata: of use if it can be read.
        return None


def _make_record(archive: str, sample: dict[str, Any]) -> ImageRecord:
    about = sample["about"] if isinstance(sample.get("about"), dict) else {}
    name = f"{archive}/{sample['name']}"
    captions = about.get("captions") or sample.get("text") or about.get("caption")
    listed = [captions] if isinstance(captions, str) else captions
    listed = listed if isinstance(listed, list) else []
    cleaned = tuple(" ".join(text.split()) for text in listed if isinstance(text, str))
    image_id = about.get("image_id", about.get("id"))
    url = about.get("url", about.get("image_url"))
    raw = name.encode("utf-8", "surrogateescape")
    return ImageRecord(
        sample_id=make_sample_id(raw),
        file_name=raw.decode("utf-8", "backslashreplace"),
        locator=sample["locator"],
        image_id=None if image_id is None else str(image_id),
        image_url=url if isinstance(url, str) else None,
        captions=tuple(text for text in cleaned if text) or None,
    )
