"""Finding mentions of objects in a text: synonyms, plurals, compound words."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from data.errors import UserError

COCO_OBJECTS = Path(__file__).with_name("coco_objects.yaml")

# "the man's hat" mentions a man: the 's is a separate token.
_TOKEN = re.compile(r"'s\b|\w+(?:-\w+)*|[^\w\s]")
# The fruit needs one of these before it; the color is followed by its object, or by a color.
_BEFORE_A_FRUIT = """
a an the one two three four five several some many half each every
sliced peeled fresh whole ripe single cut squeezed
"""
_AFTER_A_FRUIT = """
is are was in on at with and or of next beside near that which lies lying sits sitting
"""
_COLOURS = """
red black white blue green yellow brown pink purple grey gray silver gold orange
"""


@dataclass(frozen=True)
class ObjectWords:
    """A vocabulary: `entries` maps the words of an expression to its object, or to None.

    None is for expressions that name no object although a part of them does ("bus stop").
    """

    entries: Mapping[tuple[str, ...], str | None]
    colours: frozenset[str]

    @cached_property
    def longest(self) -> Mapping[str, int]:
        """The length of the longest expression by its first token."""
        lengths: dict[str, int] = {}
        for entry in self.entries:
            lengths[entry[0]] = max(len(entry), lengths.get(entry[0], 0))
        return lengths

    def find_mentions(self, text: str) -> list[str]:
        """The objects that a text mentions, in order, repeats included. The longest match wins."""
        tokens = _split(text)
        found: list[str] = []
        at = 0
        while at < len(tokens):
            length = self._match(tokens, at)
            if length:
                name = self.entries[tuple(tokens[at : at + length])]
                if name is not None and not self._is_colour(tokens, at, length):
                    found.append(name)
            at += length or 1
        return found

    def name_object(self, word: str) -> str | None:
        """The object of a word or expression; None if it is unknown."""
        return self.entries.get(tuple(_split(word.replace("_", " "))))

    def _match(self, tokens: list[str], at: int) -> int:
        for length in range(self.longest.get(tokens[at], 0), 0, -1):
            if tuple(tokens[at : at + length]) in self.entries:
                return length
        return 0

    def _is_colour(self, tokens: list[str], at: int, length: int) -> bool:
        """Whether a word is used as a color here: "an orange cat", "it is orange"."""
        if length != 1 or tokens[at] not in self.colours:
            return False
        before = tokens[at - 1] if at else ""
        after, then = ([*tokens[at + 1 : at + 3], "", ""])[:2]
        if before not in _BEFORE_A_FRUIT.split():
            return True
        joined = after in ("and", "or", ",") and then in _COLOURS.split()
        followed = after.isalpha() and after not in _AFTER_A_FRUIT.split()
        return joined or followed


def load_object_words(path: Path = COCO_OBJECTS) -> ObjectWords:
    """Read a vocabulary: YAML with `objects` (name -> words), and maybe `phrases` and `colours`.

    Raises:
        UserError: no such file, not YAML, another format, or a word for two objects.
    """
    try:
        loaded = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the synonyms {path} cannot be read: {reason}") from error
    objects, phrases, colours = _check_form(loaded, path)
    entries: dict[tuple[str, ...], str | None] = {}
    for name, words in objects.items():
        for word in (name, *words):
            for form in _list_forms(word):
                known = entries.setdefault(form, name)
                if known != name:
                    raise UserError(
                        f"{path}: '{' '.join(form)}' stands for both '{known}' and '{name}': "
                        "remove it from one"
                    )
    for phrase in phrases:
        entries.update(dict.fromkeys(_list_forms(phrase)))
    return ObjectWords(entries, frozenset(colours))


def _split(text: str) -> list[str]:
    return _TOKEN.findall(text.lower().replace("’", "'"))


def _list_forms(word: str) -> Iterable[tuple[str, ...]]:
    """The words of an expression, in the singular and with regular plurals of its last word."""
    *head, last = _split(word)
    plurals = [last + "s"]
    if last.endswith(("s", "x", "ch", "sh", "z")):
        plurals = [last + "es"]
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        plurals = [last[:-1] + "ies"]
    elif last.endswith("fe"):
        plurals = [last[:-2] + "ves"]
    elif last.endswith("f"):
        plurals = [last[:-1] + "ves", last + "s"]
    elif last.endswith("man"):
        plurals = [last[:-3] + "men"]
    elif last.endswith("o"):
        plurals = [last + "s", last + "es"]
    return [(*head, form) for form in (last, *plurals)]


def _check_form(loaded: Any, path: Path) -> tuple[dict[str, list[str]], list[str], list[str]]:
    wrong = UserError(
        f"the synonyms {path} are malformed: `objects:` must map each name to a list of words, and "
        "`phrases:` and `colours:` must be lists of words"
    )
    if not isinstance(loaded, dict) or not isinstance(loaded.get("objects"), dict):
        raise wrong
    objects = {name: words or [] for name, words in loaded["objects"].items()}
    lists = [*objects.values(), loaded.get("phrases") or [], loaded.get("colours") or []]
    if any(not isinstance(words, list) for words in lists):
        raise wrong
    if not all(isinstance(word, str) and word.strip() for words in lists for word in words):
        raise wrong
    if not all(isinstance(name, str) and name.strip() for name in objects):
        raise wrong
    return objects, lists[-2], lists[-1]
