"""Quality flags, which show users which texts to check. No text is dropped.

Thresholds are based on real texts: see docs/quality.md for what each flag finds and misses.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from captioner.text.cleaning import REPLACEMENT
from captioner.text.duplicates import find_duplicates
from captioner.text.language import is_foreign
from data.sparse.sentences import CLOSERS, ENDS, trim_to_sentence

__all__ = [
    "FLAGS",
    "Assessment",
    "assess",
    "count_words",
    "find_duplicates",
    "flag_caption",
    "measure_repetition",
    "trim_to_sentence",
]

# The order in which flags are written. `duplicate` needs the whole run (`find_duplicates`).
FLAGS = ("empty", "short", "truncated", "loop", "refusal", "non_english", "garbled", "duplicate")

# A Chinese or Japanese character counts as a word, since there are no spaces.
_WORD = re.compile(r"[\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff]|\w+(?:['’-]\w+)*")
# Tokens of chat templates, which a server should have removed.
_TOKEN = re.compile(r"<[|｜][^\s<>]{1,40}[|｜]>|</?s>")
_SENTENCE_END = re.compile(rf"(?<=[{ENDS}])[{CLOSERS}]*\s+")
_ENDS_WELL = re.compile(rf"[{ENDS}][{CLOSERS}」』）]*$")
_SEES = (
    "help|assist|see|view|describe|provide|identify|analy[sz]e|process|determine|access|answer|"
    r"comply|fulfil|fulfill|generate|offer|do\sthat|open|display|interpret|recogni[sz]e|comment"
)
_REFUSAL = re.compile(
    rf"""
    \bi['’]?\s?a?m\s(?:really\s|very\s|so\s)?(?:sorry|afraid)\b(?!\s+for\b)
    | ^\W*(?:sorry|i\sapologi[sz]e|my\sapologies|unfortunately,\si)\b
    | \bi\s(?:can\s?not|can['’]?t|could\s?n[o'’]t|do\s?n[o'’]t|do\snot|will\snot|won['’]?t)\s
      (?:\w+\s)?(?:{_SEES}|have\saccess|have\sthe\sability)\b
    | \bi\s?(?:am|['’]m)\s(?:currently\s)?(?:unable|not\sable)\sto\b
    | \bas\san\s(?:ai\b|artificial\sintelligence) | \blanguage\smodel\b
    | \b(?:no|any)\simage\s(?:was|is|has\sbeen)?\s?(?:provided|attached|uploaded|given|shared)\b
    | \bplease\s(?:provide|upload|share|attach|send)\b[^.]{{0,40}}\b(?:image|photo|picture)
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Every refusal that the pattern matches contains one of these; checking this first is 20 times
# faster.
_REFUSAL_WORDS = frozenset(
    ["i", "i'm", "i’m", "im", "sorry", "unfortunately", "apologize", "apologise", "apologies"]
    + ["ai", "artificial", "language", "no", "any", "please"]
)
# A dense text has about a hundred words (at least 56 in 1,000); shorter texts are not dense.
SHORT_WORDS = 8
# LLaVA's loops repeat phrases (haotian-liu/LLaVA#1578): many 4-grams are repetitions, or a sentence
# occurs three times. 1,000 real texts stay below 0.09, the generated world's below 0.13; repeating
# a phrase of six words five times gives 0.26.
LOOP_REPETITION = 0.2
LOOP_SENTENCES = 3
_LOOP_SENTENCE_WORDS = 4


@dataclass(frozen=True, slots=True)
class Assessment:
    """The assessment of one text by itself.

    `words` is the number of words, `flags` a subset of FLAGS in its order, `repetition` in [0, 1).
    """

    words: int
    flags: list[str]
    repetition: float


def assess(text: str, finish_reason: str | None) -> Assessment:
    """Assess one text by itself; `duplicate` needs the whole run."""
    words = _find_words(text)
    if not words:
        return Assessment(0, ["empty"], 0.0)
    repetition = _measure_repetition(words, length=4)
    found = {
        "short": len(words) < SHORT_WORDS,
        "truncated": finish_reason == "length" or not _ENDS_WELL.search(text.rstrip()),
        "loop": repetition >= LOOP_REPETITION or (repetition > 0 and _repeats_sentence(text)),
        "refusal": not _REFUSAL_WORDS.isdisjoint(words) and _REFUSAL.search(text) is not None,
        "non_english": is_foreign(text, words),
        "garbled": REPLACEMENT in text or _TOKEN.search(text) is not None,
    }
    return Assessment(len(words), [flag for flag, here in found.items() if here], repetition)


def flag_caption(text: str, *, finish_reason: str | None) -> list[str]:
    """The flags of one text, a subset of FLAGS in its order."""
    return assess(text, finish_reason).flags


def count_words(text: str) -> int:
    """Count words: sequences of letters and digits, including inner apostrophes and hyphens."""
    return len(_find_words(text))


def measure_repetition(text: str, *, length: int = 4) -> float:
    """Share of the text's n-grams of words that occurred earlier in it, in [0, 1)."""
    return _measure_repetition(_find_words(text), length=length)


def _find_words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _measure_repetition(words: Sequence[str], *, length: int) -> float:
    grams = list(zip(*(words[start:] for start in range(length)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _repeats_sentence(text: str) -> bool:
    sentences = Counter(
        sentence.strip().lower()
        for sentence in _SENTENCE_END.split(text)
        if len(sentence.split()) >= _LOOP_SENTENCE_WORDS
    )
    return any(times >= LOOP_SENTENCES for times in sentences.values())
