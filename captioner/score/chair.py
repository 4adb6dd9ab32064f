"""CHAIR: which objects a text mentions that its image does not have (Rohrbach et al., 2018).

    CHAIRi = mentions of objects that are not there / all mentions
    CHAIRs = texts with such a mention / all texts

An object is there if the annotations say so, or if a person's caption of the image mentions it, as
in the paper (arXiv 1809.02156).
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from captioner.score.objects import COCO_OBJECTS, ObjectWords, load_object_words
from data.errors import UserError
from data.files.hashes import hash_file

# 000000000790 or COCO_val2014_000000000790
_COCO_NAME = re.compile(r"(?:COCO_\w+_)?(?=\d{12}$)0*(\d+)")


@dataclass(frozen=True)
class ChairScore:
    """Of one text: the objects it mentions in order, repeats included, and those not there."""

    mentioned: list[str]
    hallucinated: list[str]

    @property
    def share(self) -> float | None:
        """The text's own CHAIRi, None where it mentions no object."""
        return len(self.hallucinated) / len(self.mentioned) if self.mentioned else None


@dataclass(frozen=True)
class KnownObjects:
    """What is in each image, by what the file calls it: its file name, its id, or either.

    `unknown` counts annotated objects that the vocabulary has no word for.
    """

    by_key: Mapping[str, frozenset[str]]
    unknown: Mapping[str, int] = field(default_factory=dict)

    def find(self, *, file_name: str, image_id: str | None) -> frozenset[str] | None:
        """The objects of one image: by its id, its whole name, its last part, or COCO's number.

        None if the file says nothing about it.
        """
        keys = [image_id, file_name, PurePosixPath(file_name).name]
        if numbered := _COCO_NAME.fullmatch(PurePosixPath(file_name).stem):
            keys.append(numbered[1])
        return next(
            (self.by_key[key] for key in keys if key is not None and key in self.by_key), None
        )


@dataclass(frozen=True)
class ChairSource:
    """What texts are judged by: the objects of the images, the words for them, and their files."""

    known: KnownObjects
    words: ObjectWords
    files: Mapping[str, Path]

    def describe(self) -> dict[str, str]:
        """SHA-256 of each file, for the metadata of the scores."""
        return {f"{name}_sha256": hash_file(path) for name, path in self.files.items()}


def load_chair(objects: Path, synonyms: Path | None) -> ChairSource:
    """Read objects and the words for them, by default those for COCO's 80 classes.

    Raises:
        UserError: as `load_objects` and `load_object_words` say.
    """
    vocabulary = synonyms or COCO_OBJECTS
    words = load_object_words(vocabulary)
    files = {"objects": objects, "synonyms": vocabulary}
    return ChairSource(load_objects(objects, words), words, files)


def score_chair(
    text: str, known: frozenset[str], words: ObjectWords, *, captions: Sequence[str] = ()
) -> ChairScore:
    """Judge one text by the objects `known` to be in its image and those `captions` mention."""
    there = known.union(*(words.find_mentions(caption) for caption in captions))
    mentioned = words.find_mentions(text)
    return ChairScore(mentioned, [name for name in mentioned if name not in there])


def load_objects(path: Path, words: ObjectWords) -> KnownObjects:
    """Read COCO's instances_*.json, or a JSON object {file name or image id: [objects]}.

    Raises:
        UserError: no such file, no JSON, neither form, or no object that the vocabulary knows.
    """
    try:
        loaded = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the objects {path} cannot be read: {reason}") from error
    if not isinstance(loaded, dict):
        raise _wrong_form(path)
    try:
        named = _read_coco(loaded) if "annotations" in loaded else _read_plain(loaded)
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong_form(path) from error
    known = _translate(named, words)
    if not any(known.by_key.values()):
        raise UserError(f"{path} names no object that the synonyms know: give others by --synonyms")
    return known


def _read_coco(loaded: dict[str, Any]) -> dict[tuple[str, ...], list[str]]:
    """Each image by its id and its file name; one without any annotation has no object."""
    names = {category["id"]: category["name"] for category in loaded["categories"]}
    found: dict[Any, list[str]] = {image["id"]: [] for image in loaded["images"]}
    for one in loaded["annotations"]:
        found[one["image_id"]].append(names[one["category_id"]])
    return {
        (str(image["id"]), image["file_name"]): found[image["id"]] for image in loaded["images"]
    }


def _read_plain(loaded: dict[str, Any]) -> dict[tuple[str, ...], list[str]]:
    for objects in loaded.values():
        if not isinstance(objects, list) or not all(isinstance(name, str) for name in objects):
            raise TypeError("not a list of names")
    return {(key,): objects for key, objects in loaded.items()}


def _translate(named: Mapping[tuple[str, ...], list[str]], words: ObjectWords) -> KnownObjects:
    by_key: dict[str, frozenset[str]] = {}
    unknown: Counter[str] = Counter()
    for keys, objects in named.items():
        translated = {name: words.name_object(name) for name in objects}
        unknown.update(name for name in objects if translated[name] is None)
        there = frozenset(name for name in translated.values() if name is not None)
        by_key.update(dict.fromkeys(keys, there))
    return KnownObjects(by_key, unknown)


def _wrong_form(path: Path) -> UserError:
    return UserError(
        f"the objects {path} are neither COCO's instances (images, annotations, categories) nor a "
        "JSON object of lists, {file name or image id: [objects]}"
    )
