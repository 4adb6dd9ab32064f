"""Where the sentences of a text end: for scores by sentence, and to cut back a text that stops."""

import re

# What ends a sentence, in the scripts that captions are written in, and what may close after it.
ENDS = ".!?…。！？｡।۔؟"
CLOSERS = "\"'”’»)\\]*"
_END = re.compile(rf"[{ENDS}]+[{CLOSERS}]*(?=\s|$)|[。！？｡]+[{CLOSERS}」』）]*")
# Never the last word of a sentence: a name or a number follows.
_TITLES = "mr mrs ms dr prof st mt sgt capt gen col lt rev hon no vs fig approx ca e.g i.e"
# Within a sentence or at its end; what follows decides.
_OPEN_ENDS = "a.m p.m u.s u.k u.s.a etc jr sr inc ltd co corp ave blvd rd ft cm mm lb oz"
_NEVER_LAST = frozenset(_TITLES.split())
_SOMETIMES_LAST = frozenset(_OPEN_ENDS.split())
_LONGEST_ABBREVIATION = 16
_BRACKETS = {"(": ")", "[": "]", "“": "”", "«": "»"}


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order, without the space between them.

    What follows the last full sentence, if anything, is an element too.
    """
    ends = find_sentence_ends(text)
    starts = [0, *ends]
    pieces = [text[start:end] for start, end in zip(starts, [*ends, len(text)], strict=True)]
    return [piece.strip() for piece in pieces if piece.strip()]


def trim_to_sentence(text: str) -> str | None:
    """A text that stops midway, cut back to its last full sentence; None where it has none.

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
        # "at 5 p.m. The" ends; "in the U.S. Open" is taken for an end too: a sentence is lost.
        return not following.isdigit()
    # An initial, as in "J. Smith"; "I" is a word.
    return not (len(word) == 1 and word.isalpha() and word != "i" and bool(following))


def _is_list_number(text: str, end: int) -> bool:
    """Whether "1." at `end` counts an item: at the start of the text or of a line."""
    start = text.rfind("\n", 0, max(0, end - 1)) + 1
    return re.fullmatch(r"\s*[(*]*\d{1,2}\.[)*]*", text[start:end]) is not None


def _is_closed(text: str) -> bool:
    """Whether every quotation and bracket that is opened is closed."""
    return text.count('"') % 2 == 0 and all(
        text.count(opening) <= text.count(closing) for opening, closing in _BRACKETS.items()
    )
