"""A fast check whether a text is English, based on function words.

Only a text with a stretch of few English function words, or with many non-Latin letters, is passed
to a language identifier (py3langid: numpy only, its model in the wheel, deterministic).
"""

from collections.abc import Sequence

# English function words. "in", "a", "is" also exist in other languages; the threshold below is high
# enough that these alone do not reach it.
_LISTED = """
a an the this that these those there here it its he him his she her they them their we our you
your and or but nor if so than then as while when where which who whom whose what how why
of in on at to from by for with without into onto over under above below through across along
around about between among behind beside near next off out up down inside outside during
against toward towards upon is are was were be been being am has have had having do does did
can could may might must shall should will would not no nor some any each every both all
another other others more most many much several few one two three only also very too just
"""
_FUNCTION_WORDS = frozenset(_LISTED.split())
# A third of a text is the smallest stretch, so that a change of language midway is detected.
_STRETCHES = 3
# Shorter texts and stretches have too few words for a meaningful share.
MIN_WORDS = 8
# Of 1,000 LLaVA texts none has a stretch below 0.31; of 23 texts in ten other languages with Latin
# letters none is above 0.11 (docs/quality.md).
ENGLISH_SHARE = 0.25
# A quoted sign is a few percent of a description's letters.
FOREIGN_LETTERS = 0.15
# Latin letters, accents, modifiers and phonetic signs end here, where Greek begins.
_LAST_LATIN, _LATIN_ADDITIONS = 0x02FF, range(0x1E00, 0x1F00)


def is_foreign(text: str, words: Sequence[str]) -> bool:
    """Whether a text, or a third of it, is in a language other than English.

    Args:
        words: the words of `text` in lower case, which the caller already has.
    """
    if measure_foreign_letters(text) >= FOREIGN_LETTERS:
        return True
    stretch = find_weakest_stretch(words)
    return bool(stretch) and identify_language(" ".join(stretch)) != "en"


def measure_foreign_letters(text: str) -> float:
    """The share of a text's letters that are not Latin, in [0, 1]."""
    if text.isascii():
        return 0.0
    letters = [ord(letter) for letter in text if letter.isalpha()]
    foreign = sum(
        letter > _LAST_LATIN and letter not in _LATIN_ADDITIONS and not 0xFF00 < letter < 0xFF5B
        for letter in letters
    )
    return foreign / max(1, len(letters))


def find_weakest_stretch(words: Sequence[str]) -> Sequence[str]:
    """The third of the words with the fewest English function words; empty if none is in doubt.

    A text of fewer than three times MIN_WORDS is one stretch; below MIN_WORDS it is not checked.
    """
    if len(words) < MIN_WORDS:
        return ()
    count = _STRETCHES if len(words) >= _STRETCHES * MIN_WORDS else 1
    edges = [len(words) * number // count for number in range(count + 1)]
    english = [word in _FUNCTION_WORDS for word in words]
    shares = [
        sum(english[start:stop]) / (stop - start)
        for start, stop in zip(edges, edges[1:], strict=False)
    ]
    weakest = min(range(count), key=shares.__getitem__)
    if shares[weakest] >= ENGLISH_SHARE:
        return ()
    return words[edges[weakest] : edges[weakest + 1]]


def identify_language(text: str) -> str:
    """The most likely language of a text, as an ISO 639 code ("en")."""
    # Its model takes a second and 100 MB to load, so it is only used for texts in doubt.
    from py3langid import classify

    language: str = classify(text)[0]
    return language
