"""Flags on texts of the kinds that LLaVA writes."""

import pytest

from captioner.text.cleaning import clean_text, cut_reasoning
from captioner.text.quality import FLAGS, assess, count_words, flag_caption, measure_repetition

GOOD = (
    "The image depicts a busy street in a city. Several people are walking on the sidewalk, some "
    'of them carrying bags. A sign above a shop says "OPEN."'
)
LOOP = "A man in a red shirt. " + "There is a car on the left side of the road. " * 6
THRICE = GOOD + " A dog is sleeping there." * 3
ALMOST = GOOD + " A dog is sleeping there." * 2
GERMAN = (
    "Das Bild zeigt eine Straße. Mehrere Menschen gehen auf dem Gehweg, und einige tragen Taschen."
)


@pytest.mark.parametrize(
    ("text", "finish", "flags"),
    [
        (GOOD, "stop", []),
        (GOOD, None, []),
        (GOOD, "length", ["truncated"]),
        (GOOD + " In the background there is", "stop", ["truncated"]),
        ("", "stop", ["empty"]),
        (" \n", "stop", ["empty"]),
        ("...", "stop", ["empty"]),
        ("", "length", ["empty"]),
        ("A dog.", "stop", ["short"]),
        (LOOP.strip(), "length", ["truncated", "loop"]),
        ("of the " * 40, "length", ["truncated", "loop"]),
        (THRICE, "stop", ["loop"]),
        (ALMOST, "stop", []),
        (GERMAN, "stop", ["non_english"]),
        (GERMAN[:-1], "stop", ["truncated", "non_english"]),
        ("两个男人在修屋顶。", "stop", ["non_english"]),
        ("两个男人在修", "stop", ["short", "truncated", "non_english"]),
    ],
)
def test_flags(text: str, finish: str | None, flags: list[str]) -> None:
    assert flag_caption(text, finish_reason=finish) == flags


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I cannot see the image that you are talking about.",
        "As an AI language model I have no eyes to look at pictures with.",
        "Sorry, but there is nothing in this picture that can be described.",
        "I can't assist with the request to describe the people in it.",
        "I’m unable to view this, so here is a general idea of what it may be.",
        "It seems that no image was provided. Please upload the photo again.",
        "I do not have the ability to look at pictures, only at words.",
    ],
)
def test_refusals(text: str) -> None:
    assert flag_caption(text, finish_reason="stop") == ["refusal"]


@pytest.mark.parametrize(
    "text",
    [
        "The sign says that we are sorry for the delay of all trains today.",
        "A man with a hat is seen from behind, so we cannot see his face at all.",
        "On the wall there is no image of any kind, only a clock and a calendar.",
        "The note on the door says that I love you and that I will be home at five.",
    ],
)
def test_what_only_looks_like_a_refusal(text: str) -> None:
    assert flag_caption(text, finish_reason="stop") == []


def test_flags_come_in_their_order() -> None:
    text = "I'm sorry, I can't see it, I'm sorry, I can't see it, I'm sorry, I can't see it"
    found = flag_caption(text, finish_reason="length")
    assert found == [flag for flag in FLAGS if flag in found] == ["truncated", "loop", "refusal"]


def test_one_assessment_says_it_all() -> None:
    found = assess(THRICE, "stop")
    assert found.words == count_words(THRICE) == 28 + 3 * 5
    # 40 4-grams, of which 12 begin in the last 15 words, and these know 5 kinds.
    assert found.repetition == measure_repetition(THRICE) == pytest.approx(7 / 40)
    assert found.flags == ["loop"]


def test_repetition_is_the_share_of_repeated_4_grams() -> None:
    assert measure_repetition("a b c d e f g") == 0
    assert measure_repetition("one two three") == 0
    assert measure_repetition("") == 0
    # a b c d a b c d: five 4-grams, the fifth being the first.
    assert measure_repetition("a b c d A B C D") == pytest.approx(1 / 5)


def test_count_words() -> None:
    assert count_words("A man's well-lit room, 2 chairs.") == 6
    assert count_words("?! -") == 0
    assert count_words("两个男人。") == 4


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("A wall.", "A wall."),
        ("<think>Hm\nhm</think>\n\nA wall.", "\n\nA wall."),
        ("<think>a</think>A wall.<think>b</think> A door.", "A wall. A door."),
        ("<think>a<think>b</think>c</think>A wall.", "A wall."),
        ("Hm.</think>A wall.", "A wall."),
        ("A wall.<think>Hm", "A wall."),
        ("<THINKING>Hm</thinking>A wall.", "A wall."),
        ("◁think▷Hm◁/think▷A wall.", "A wall."),
        ("[THINK]Hm[/THINK]A wall.", "A wall."),
        ("He is [thinking] of a wall.", "He is [thinking] of a wall."),
        ("1 < 2, and he thinks > 3.", "1 < 2, and he thinks > 3."),
    ],
)
def test_reasoning_is_cut_off(text: str, answer: str) -> None:
    assert cut_reasoning(text) == answer


def test_what_no_file_should_hold_is_replaced_and_flagged() -> None:
    dense = "A wide room with a long table and seven chairs around it."
    for odd in ("\x00", "\x1b[2J", "\ud83d", "\x85", "\x7f", "\ufffd"):
        cleaned = clean_text(f" {dense}{odd}\r\n")
        assert cleaned == dense + "\ufffd" + odd[1:] and cleaned.encode()
        assert "garbled" in assess(cleaned, "stop").flags
    assert clean_text("a\r\nb\rc\td") == "a\nb\nc\td"
    assert "garbled" not in assess(dense, "stop").flags


@pytest.mark.parametrize(
    "odd", ["<|im_end|>", "</s>", "<|channel|>", "<\uff5cend\u2581of\u2581sentence\uff5c>"]
)
def test_tokens_of_a_template_are_flagged(odd: str) -> None:
    dense = "A wide room with a long table and seven chairs around it."
    assert "garbled" in flag_caption(f"{dense}{odd}", finish_reason="stop")
    assert "garbled" not in flag_caption(
        f"{dense} A sign says <s| and <end>.", finish_reason="stop"
    )
