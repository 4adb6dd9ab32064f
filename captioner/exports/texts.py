"""Exports for training with other programs; rows without a text are left out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from captioner.exports.lines import write_lines
from captioner.exports.selection import Selection
from captioner.settings.template import Template
from data.errors import UserError
from data.files.atomic import replace_folder

_COLUMNS = ["caption", "file_name", "sample_id", "image_id", "image_sha256", "captions"]


def write_sidecars(
    selection: Selection, out: Path, *, overwrite: bool
) -> tuple[int, tuple[str, ...]]:
    """Write `NAME.txt` to the folder `out` for each `NAME.jpg`, as trainers of image models expect.

    Readers strip a byte order mark at the beginning and line ends at the end of a file; a note
    counts the texts that have them.

    Raises:
        UserError: two images would share a text file, a name is not valid for a file, or `out` is
            not empty by the end and `overwrite` is not set.
    """
    taken: dict[str, str] = {}
    cut = 0
    with replace_folder(out, only_empty=not overwrite) as folder:
        for row in _iterate(selection):
            name = PurePosixPath(row["file_name"])
            place = name.with_suffix(".txt").as_posix()
            if name.is_absolute() or ".." in name.parts or "://" in row["file_name"]:
                raise UserError(
                    f"{row['file_name']!r} is not a file name that a .txt can lie beside"
                )
            if (other := taken.get(place.casefold())) is not None:
                raise UserError(
                    f"{other} and {row['file_name']} are two images, but would share {place}: use "
                    "--format jsonl or parquet"
                )
            taken[place.casefold()] = row["file_name"]
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            text = row["caption"]
            cut += text.removeprefix("\ufeff").rstrip("\r\n") != text
            path.write_text(text, encoding="utf-8", newline="")
    told = (
        f"{cut:,} texts begin with a byte order mark or end in a line break, which readers take "
        "for the file's own"
    )
    return len(taken), (told,) if cut else ()


def write_conversations(selection: Selection, out: Path) -> tuple[int, tuple[str, ...]]:
    """A JSON list in the format of LLaVA and ShareGPT4V: the text answers the prompt.

    Returns:
        The number of conversations, and notes.

    Raises:
        UserError: two images have the same name.
    """
    prompt, notes = _read_prompt(selection.run.get("settings", {}))
    asked = "\n".join(filter(None, ["<image>", prompt]))

    def tell(row: dict[str, Any]) -> dict[str, Any]:
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": row["caption"]}]
        return {
            "id": row["image_id"] or row["sample_id"],
            "image": row["file_name"],
            "conversations": turns,
        }

    return write_lines(
        out, map(json.dumps, map(tell, _iterate_named(selection))), brackets=True
    ), notes


def _read_prompt(settings: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """The prompt of all images, if it is the same for all, and notes."""
    prompt: str | None = settings.get("prompt")
    if prompt is None or settings.get("text") is None:
        return prompt, ()
    parts = Template.parse(prompt, where="prompt").parts
    if any(place is not None for _, place in parts):
        note = "the prompt of this run differs by image, so the questions are only <image>"
        return None, (note,)
    return "".join(words for words, _ in parts), ()


def write_csv(selection: Selection, out: Path, *, images: Path | None) -> int:
    """`filepath` and `title`, as open_clip's trainer reads with `--csv-separator ,`.

    Paths are below `images`, if that is given.

    Raises:
        UserError: two images have the same name.
    """
    rows = (
        (str(images / row["file_name"]) if images else row["file_name"], row["caption"])
        for row in _iterate_named(selection)
    )
    return write_lines(out, _format_csv(rows), header="filepath,title")


def write_pairs(selection: Selection, out: Path) -> int:
    """A JSON line for each short caption of people with its dense text, as sentence-transformers
    reads pairs: `anchor` and `positive`.

    Raises:
        UserError: no image has human captions.
    """
    pairs = (
        {"anchor": caption, "positive": row["caption"]}
        for row in _iterate(selection)
        for caption in row["captions"] or ()
        if caption.strip()
    )
    first = next(pairs, None)
    if first is None:
        raise UserError(
            f"{selection.directory} has no human captions to pair with its texts: caption the "
            "images with `d2s caption --captions FILE`"
        )
    return write_lines(out, map(json.dumps, chain([first], pairs)))


def _iterate(selection: Selection) -> Iterator[dict[str, Any]]:
    for table in selection.iterate():
        for row in table.select(_COLUMNS).to_pylist():
            if row["caption"] and row["caption"].strip():
                yield row


def _iterate_named(selection: Selection) -> Iterator[dict[str, Any]]:
    """`_iterate` for formats that only have an image's name.

    Raises:
        UserError: two images have the same name. The images of an import are unknown.
    """
    hashes: dict[str, str] = {}
    for row in _iterate(selection):
        name, sha256 = row["file_name"], row["image_sha256"]
        if sha256 is not None and hashes.setdefault(name, sha256) != sha256:
            raise UserError(
                f"two images of {selection.directory} have the name {name}, which is all that this "
                "format has of an image: use --format jsonl or parquet"
            )
        yield row


def _format_csv(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for row in rows:
        line = io.StringIO()
        # QUOTE_ALL: with an empty line terminator, line ends in cells would not be quoted.
        csv.writer(line, lineterminator="", quoting=csv.QUOTE_ALL).writerow(row)
        yield line.getvalue()
