"""Flags that tell a reader which texts to look at. Nothing is dropped for them."""

import re
from collections import Counter

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+")
_ENDS_WELL = re.compile(r"[.!?…][\"'”’)\]*]*$")
_REFUSAL = re.compile(
    r"\b(?:i['’]?\s?a?m sorry|i (?:can ?not|can['’]?t|am unable to|am not able to|won['’]?t)\b"
    r"(?: (?:help|assist|see|view|describe|provide|identify|analy[sz]e|process|determine|access))"
    r"|as an ai\b|as a language model)",
    re.IGNORECASE,
)
# A dense text has some hundred words; below this it is not one.
SHORT_WORDS = 8
# LLaVA's loops say the same over and over: half of the 4-grams were said before, or one sentence
# comes three times (haotian-liu/LLaVA#1578).
LOOP_REPETITION = 0.5
LOOP_SENTENCES = 3
_LOOP_SENTENCE_WORDS = 4


def count_words(text: str) -> int:
    """Words: runs of letters and digits, inner apostrophes and hyphens included."""
    return len(_WORD.findall(text))


def measure_repetition(text: str, *, length: int = 4) -> float:
    """Share of the text's n-grams of words that occurred earlier in it, in [0, 1)."""
    words = [word.lower() for word in _WORD.findall(text)]
    grams = [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def flag_caption(text: str, *, finish_reason: str | None) -> list[str]:
    """The flags of one text, in a fixed order: empty, short, truncated, loop, refusal."""
    words = count_words(text)
    if words == 0:
        return ["empty"]
    found = {
        "short": words < SHORT_WORDS,
        "truncated": finish_reason == "length" or not _ENDS_WELL.search(text.rstrip()),
        "loop": _loops(text),
        "refusal": _REFUSAL.search(text) is not None,
    }
    return [flag for flag, present in found.items() if present]


def _loops(text: str) -> bool:
    if measure_repetition(text) >= LOOP_REPETITION:
        return True
    sentences = Counter(
        sentence.strip().lower()
        for sentence in _SENTENCE_END.split(text)
        if count_words(sentence) >= _LOOP_SENTENCE_WORDS
    )
    return any(times >= LOOP_SENTENCES for times in sentences.values())
