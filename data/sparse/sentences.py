"""Finding the ends of sentences, to score sentences and to trim truncated texts."""

import re

# Marks that end a sentence in the scripts used for captions, and closing marks after them.
ENDS = ".!?…。！？｡।۔؟"
CLOSERS = "\"'”’»)\\]*"
_END = re.compile(rf"[{ENDS}]+[{CLOSERS}]*(?=\s|$)|[。！？｡]+[{CLOSERS}」』）]*")
# Never the last word of a sentence: a name or a number follows.
_TITLES = "mr mrs ms dr prof st mt sgt capt gen col lt rev hon no vs fig approx ca e.g i.e"
# Within a sentence or at its end; the next word decides.
_OPEN_ENDS = "a.m p.m u.s u.k u.s.a etc jr sr inc ltd co corp ave blvd rd ft cm mm lb oz"
_NEVER_LAST = frozenset(_TITLES.split())
_SOMETIMES_LAST = frozenset(_OPEN_ENDS.split())
_LONGEST_ABBREVIATION = 16
_BRACKETS = {"(": ")", "[": "]", "“": "”", "«": "»"}


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order, without the space between them.

    A remainder after the last full sentence is also an element.
    """
    ends = find_sentence_ends(text)
    starts = [0, *ends]
    pieces = [text[start:end] for start, end in zip(starts, [*ends, len(text)], strict=True)]
    return [piece.strip() for piece in pieces if piece.strip()]


def trim_to_sentence(text: str) -> str | None:
    """Cut a truncated text back to its last full sentence; None if it has none.

    A quotation or a bracket is not left open, unless every sentence end lies within one.
    """
    ends = [end for end in find_sentence_ends(text) if not _is_list_number(text, end)]
    # "3." at the very end may be the first half of "3.5".
    if ends and ends[-1] == len(text.rstrip()) and re.search(r"\d\.$", text.rstrip()):
        ends.pop()
    if not ends:
        return None
    closed = [end for end in ends if _is_closed(text[:end])]
    return text[: (closed or ends)[-1]].strip()


def find_sentence_ends(text: str) -> list[int]:
    """The positions just after each full sentence, its closing quotes and brackets included."""
    return [match.end() for match in _END.finditer(text) if _ends_sentence(text, match)]


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    if _is_list_number(text, match.end()):
        return False
    following = text[match.end() :].lstrip()[:1]
    if following.islower():
        # `"Stop!" she says`, "waits ... and looks".
        return False
    if text[match.start()] != "." or match.group().startswith(".."):
        return True
    before = text[max(0, match.start() - _LONGEST_ABBREVIATION) : match.start()]
    word = (before.split() or [""])[-1].lstrip("\"'“‘([*").lower()
    if word in _NEVER_LAST:
        return False
    if word in _SOMETIMES_LAST:
        # "at 5 p.m. The" ends; "in the U.S. Open" is also taken for an end, and a sentence is lost.
        return not following.isdigit()
    # An initial, as in "J. Smith"; "I" is a word.
    return not (len(word) == 1 and word.isalpha() and word != "i" and bool(following))


def _is_list_number(text: str, end: int) -> bool:
    """Whether "1." at `end` counts an item: at the start of the text or of a line."""
    start = text.rfind("\n", 0, max(0, end - 1)) + 1
    return re.fullmatch(r"\s*[(*]*\d{1,2}\.[)*]*", text[start:end]) is not None


def _is_closed(text: str) -> bool:
    """Whether all quotation marks and brackets are closed."""
    return text.count('"') % 2 == 0 and all(
        text.count(opening) <= text.count(closing) for opening, closing in _BRACKETS.items()
    )
