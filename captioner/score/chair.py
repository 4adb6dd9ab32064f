"""CHAIR: objects that a text mentions but its image does not contain (Rohrbach et al., 2018).

    CHAIRi = mentions of absent objects / all mentions
    CHAIRs = texts with such a mention / all texts

An object is present if it is annotated or a human caption of the image mentions it, as in the paper
(arXiv 1809.02156).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captioner.score.objects import COCO_OBJECTS, ObjectWords, load_object_words
from data.errors import UserError
from data.files.hashes import hash_file
from data.files.text_files import read_json
from data.matching import Keys, name_id, refuse_twice, tie


@dataclass(frozen=True)
class ChairScore:
    """The objects that a text mentions, in order with repetitions, and those that are absent."""

    mentioned: list[str]
    hallucinated: list[str]

    @property
    def share(self) -> float | None:
        """The text's CHAIRi, None if it mentions no object."""
        return len(self.hallucinated) / len(self.mentioned) if self.mentioned else None


@dataclass(frozen=True)
class KnownObjects:
    """The objects in each image, by file name and/or id as in the file.

    `unknown` counts annotated objects that are not in the vocabulary.
    """

    by_keys: Mapping[Keys, frozenset[str]]
    unknown: Mapping[str, int] = field(default_factory=dict)

    def find(self, images: Sequence[Keys]) -> tuple[list[frozenset[str] | None], tuple[str, ...]]:
        """The objects of images by file name and id (None if unknown), and notes."""
        ties, objects = tie(images, list(self.by_keys)), list(self.by_keys.values())
        return [None if row is None else objects[row] for row in ties.rows], ties.notes


@dataclass(frozen=True)
class ChairSource:
    """The reference for scoring: objects of the images, words for them, and the files."""

    known: KnownObjects
    words: ObjectWords
    files: Mapping[str, Path]

    def describe(self) -> dict[str, str]:
        """SHA-256 of each file, for the metadata of the scores."""
        return {f"{name}_sha256": hash_file(path) for name, path in self.files.items()}


def load_chair(objects: Path, synonyms: Path | None) -> ChairSource:
    """Read objects and words, by default those for COCO's 80 classes.

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
    """Score one text by the objects `known` to be in its image and those in `captions`."""
    there = known.union(*(words.find_mentions(caption) for caption in captions))
    mentioned = words.find_mentions(text)
    return ChairScore(mentioned, [name for name in mentioned if name not in there])


def load_objects(path: Path, words: ObjectWords) -> KnownObjects:
    """Read COCO's instances_*.json, or a JSON object {file name or image id: [objects]}.

    Raises:
        UserError: no such file, not JSON, neither format, or no object in the vocabulary.
    """
    loaded = read_json(path)
    if not isinstance(loaded, dict):
        raise _wrong_form(path)
    try:
        named = _read_coco(path, loaded) if "annotations" in loaded else _read_plain(loaded)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _wrong_form(path) from error
    known = _translate(named, words)
    if not any(known.by_keys.values()):
        raise UserError(
            f"{path} has no object that the synonyms know: specify others with --synonyms"
        )
    return known


def _read_coco(path: Path, loaded: dict[str, Any]) -> dict[Keys, list[str]]:
    """Objects of each image by id and file name; an image without annotations has none."""
    names = {category["id"]: category["name"] for category in loaded["categories"]}
    images = [(str(image["file_name"]), name_id(image["id"])) for image in loaded["images"]]
    refuse_twice([name for _, name in images], where=str(path))
    found: dict[str | None, list[str]] = {name: [] for _, name in images}
    for one in loaded["annotations"]:
        image, category = name_id(one["image_id"]), one["category_id"]
        if image not in found or category not in names:
            what = f"category {category}" if image in found else f"image {image}"
            raise UserError(
                f"{path}: the annotation {one.get('id')} is of the {what}, which the file does not "
                "list: take the annotation out, or use the whole file"
            )
        found[image].append(names[category])
    return {keys: found[keys[1]] for keys in images}


def _read_plain(loaded: dict[str, Any]) -> dict[Keys, list[str]]:
    for objects in loaded.values():
        if not isinstance(objects, list) or not all(isinstance(name, str) for name in objects):
            raise TypeError("not a list of names")
    return {(key,): objects for key, objects in loaded.items()}


def _translate(named: Mapping[Keys, list[str]], words: ObjectWords) -> KnownObjects:
    by_keys: dict[Keys, frozenset[str]] = {}
    unknown: Counter[str] = Counter()
    for keys, objects in named.items():
        translated = {name: words.name_object(name) for name in objects}
        unknown.update(name for name in objects if translated[name] is None)
        by_keys[keys] = frozenset(name for name in translated.values() if name is not None)
    return KnownObjects(by_keys, unknown)


def _wrong_form(path: Path) -> UserError:
    return UserError(
        f"the objects {path} are neither COCO's instances (images, annotations, categories) nor a "
        "JSON object of lists, {file name or image id: [objects]}"
    )
