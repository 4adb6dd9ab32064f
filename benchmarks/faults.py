"""Artificial faults in good texts, to measure how many the flags detect."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data.sparse.sentences import split_sentences

# Refusals by chat models, which occur when a photo or prompt worries the model.
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I cannot identify the people in this image.",
    "I am unable to view the image you mentioned.",
    "As an AI language model, I don't have the ability to see images.",
    "I'm not able to provide a description of this photo.",
    "I apologize, but I cannot process this request.",
    "Sorry, I can't assist with describing this person.",
    "Unfortunately, I cannot see any image in our conversation.",
    "There is no image attached, so please upload the photo again.",
    "I can't determine who is in the picture.",
    "I don't have access to the picture that you are referring to.",
    "My apologies, but the content of this photo cannot be described by me.",
    "I'm just a language model and have no way to look at pictures.",
    "This request goes against my guidelines, so no description will be given.",
    "It would not be appropriate to describe the person in this photo.",
    "The image could not be loaded.",
)
OBJECTS = (
    *("red car", "wooden bench", "tall tree", "man in a hat", "blue bicycle", "street lamp"),
    *("white dog", "road sign", "small house", "yellow bus", "trash can", "open window"),
)


@dataclass(frozen=True)
class Fault:
    """One kind of fault: the flag that should detect it, and a function that inserts it."""

    flag: str
    name: str
    make: Callable[[str, random.Random], str | None]


def list_faults(foreign: Sequence[str]) -> list[Fault]:
    """All kinds; `foreign` are texts in other languages, used to end an English one.

    `make` returns None for texts that cannot have the fault.
    """
    return [
        Fault("truncated", "cut after a random word", cut_at_word),
        Fault("truncated", "cut within a random word", cut_in_word),
        *[
            Fault("loop", f"last sentence {times} times more", repeat_sentence(times))
            for times in (1, 2, 3, 6)
        ],
        *[
            Fault("loop", f"{words} words {times} times more, then the end", repeat(words, times))
            for words, times in ((3, 5), (3, 20), (6, 3), (6, 5), (6, 10), (12, 3))
        ],
        *[
            Fault("loop", f"one frame, {times} things", fill_frame(times))
            for times in (3, 6, 8, 12)
        ],
        Fault("refusal", "a refusal instead", lambda text, rng: rng.choice(REFUSALS)),
        Fault("refusal", "a refusal before", lambda text, rng: f"{rng.choice(REFUSALS)} {text}"),
        Fault("empty", "nothing or white space", lambda text, rng: rng.choice(("", " ", "\n\n"))),
        Fault("short", "its first 7 words", lambda text, rng: " ".join(text.split()[:7]) + "."),
        Fault("non_english", "another language", lambda text, rng: rng.choice(foreign)),
        Fault("non_english", "last sentence in another language", end_foreign(foreign, keep=-1)),
        Fault("non_english", "half of it in another language", end_foreign(foreign, keep=None)),
    ]


def cut_at_word(text: str, rng: random.Random) -> str | None:
    """The text up to a word that does not end a sentence."""
    words = text.split()
    places = [at for at in range(8, len(words)) if words[at - 1][-1] not in ".!?\"'"]
    return " ".join(words[: rng.choice(places)]) if places else None


def cut_in_word(text: str, rng: random.Random) -> str | None:
    """The text up to a letter within a word, as cut by a token limit."""
    places = [at for at in range(40, len(text) - 1) if text[at - 1 : at + 1].isalpha()]
    return text[: rng.choice(places)] if places else None


def repeat_sentence(times: int) -> Callable[[str, random.Random], str]:
    """The last sentence, repeated."""
    return lambda text, rng: " ".join([text, *[split_sentences(text)[-1]] * times])


def repeat(words: int, times: int) -> Callable[[str, random.Random], str | None]:
    """A phrase from the second half, repeated until the text stops."""

    def make(text: str, rng: random.Random) -> str | None:
        said = text.split()
        if len(said) < 2 * words + 2:
            return None
        start = rng.randrange(len(said) // 2, len(said) - words)
        return " ".join(said[: start + words] + said[start : start + words] * times) + "."

    return make


def fill_frame(times: int) -> Callable[[str, random.Random], str]:
    """Sentences that differ in only one thing."""

    def make(text: str, rng: random.Random) -> str:
        things = rng.sample(OBJECTS, times)
        return " ".join(
            [text, *[f"There is also a {thing} visible in the background." for thing in things]]
        )

    return make


def end_foreign(foreign: Sequence[str], *, keep: int | None) -> Callable[[str, random.Random], str]:
    """The sentences up to `keep` (None: the first half), then a text in another language."""

    def make(text: str, rng: random.Random) -> str:
        sentences = split_sentences(text)
        kept = sentences[: keep if keep is not None else len(sentences) // 2]
        return " ".join([*kept, rng.choice(foreign)])

    return make
