"""Sentence ends: what ends a sentence, what only looks like it."""

import pytest

from data.sparse.sentences import split_sentences, trim_to_sentence


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("A dog runs. It is brown! Is it wet?", ["A dog runs.", "It is brown!", "Is it wet?"]),
        ("Mr. Smith meets Dr. Lee. They talk.", ["Mr. Smith meets Dr. Lee.", "They talk."]),
        ("J. R. Tolkien sits there. He reads.", ["J. R. Tolkien sits there.", "He reads."]),
        ("It is 5 p.m. in town. Dusk.", ["It is 5 p.m. in town.", "Dusk."]),
        ("It closes at 5 p.m. The bar opens.", ["It closes at 5 p.m.", "The bar opens."]),
        ("A pole of 3.5 m. A flag.", ["A pole of 3.5 m. A flag."]),
        ("A pole of 3.5 meters. A flag.", ["A pole of 3.5 meters.", "A flag."]),
        ('A sign says "Stop." A car waits.', ['A sign says "Stop."', "A car waits."]),
        ('"Stop!" she says. He stops.', ['"Stop!" she says.', "He stops."]),
        ("He waits ... and looks. Then goes.", ["He waits ... and looks.", "Then goes."]),
        ("He waits... Then he goes", ["He waits...", "Then he goes"]),
        ("Fruits, e.g. Apples, lie there. Ripe.", ["Fruits, e.g. Apples, lie there.", "Ripe."]),
        ("1. A dog.\n2. A cat.", ["1. A dog.", "2. A cat."]),
        ("It was built in 1999. It stands.", ["It was built in 1999.", "It stands."]),
        ("一只小狗在跑。它很开心。", ["一只小狗在跑。", "它很开心。"]),
        ("no end at all", ["no end at all"]),
        (" \n", []),
    ],
)
def test_split(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@pytest.mark.parametrize(
    ("text", "trimmed"),
    [
        ("A dog runs. It is", "A dog runs."),
        ("A dog runs. It is brown.", "A dog runs. It is brown."),
        ("A dog runs. ", "A dog runs."),
        ("A dog runs", None),
        ("", None),
        ("A dog runs. Beside it stands Mr.", "A dog runs."),
        ("A dog runs. The pole has 3.", "A dog runs."),
        ("A dog runs! It is 2.5 m from a", "A dog runs!"),
        ('A dog runs. A sign says "Stop. Go. Wait', "A dog runs."),
        ('A dog runs. A sign says "Stop." A car', 'A dog runs. A sign says "Stop."'),
        ('A sign says "Stop. Go', 'A sign says "Stop.'),
        ("A dog runs (it is brown. It is", "A dog runs (it is brown."),
        ("A dog. A cat (it is brown. It is", "A dog."),
        ("Here is a list:\n1. A dog.\n2.", "Here is a list:\n1. A dog."),
        ("It waits... And then it", "It waits..."),
    ],
)
def test_trim(text: str, trimmed: str | None) -> None:
    assert trim_to_sentence(text) == trimmed


def test_trimming_twice_is_trimming_once() -> None:
    text = 'Mr. Lee said "Wait. I come" at 5 p.m. Then he went (fast!) to St. Paul. It was 3.'
    for length in range(len(text) + 1):
        once = trim_to_sentence(text[:length])
        if once is not None:
            assert text.startswith(once) and trim_to_sentence(once) == once
