"""Flags on texts of the kinds that LLaVA writes."""

import pytest

from captioner.quality import count_words, flag_caption, measure_repetition

GOOD = (
    "The image depicts a busy street in a city. Several people are walking on the sidewalk, some "
    'of them carrying bags. A sign above a shop says "OPEN."'
)
LOOP = "A man in a red shirt. " + "There is a car on the left side of the road. " * 6


@pytest.mark.parametrize(
    ("text", "finish", "flags"),
    [
        (GOOD, "stop", []),
        (GOOD, "length", ["truncated"]),
        (GOOD + " In the background there is", "stop", ["truncated"]),
        ("", "stop", ["empty"]),
        (" \n", "stop", ["empty"]),
        ("...", "stop", ["empty"]),
        ("A dog.", "stop", ["short"]),
        (LOOP.strip(), "length", ["truncated", "loop"]),
        ("four " * 40, "length", ["truncated", "loop"]),
        ("I'm sorry, but I cannot see the image that you are talking about.", "stop", ["refusal"]),
        ("As an AI language model I have no eyes to look at pictures with.", "stop", ["refusal"]),
        ("The sign says that we are sorry for the delay of all trains today.", "stop", []),
    ],
)
def test_flags(text: str, finish: str, flags: list[str]) -> None:
    assert flag_caption(text, finish_reason=finish) == flags


def test_repetition_is_the_share_of_repeated_4_grams() -> None:
    assert measure_repetition("a b c d e f g") == 0
    assert measure_repetition("one two three") == 0
    assert measure_repetition("") == 0
    # a b c d a b c d: five 4-grams, the fifth being the first.
    assert measure_repetition("a b c d A B C D") == pytest.approx(1 / 5)


def test_count_words() -> None:
    assert count_words("A man's well-lit room, 2 chairs.") == 6
    assert count_words("?! -") == 0
