"""Checks that the answering model saw the images, by two requests at the head of every file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from captioner.engine.batch.answers import AnswerIndex
from captioner.engine.batch.request_id import ALONE, BLANK
from captioner.engine.batch.result import open_response
from captioner.engine.image_guard import ImageGuard
from captioner.engine.server.chat import AnswerCheck, read_count, read_model
from captioner.engine.server.client import RefusedError, ServerError

_UNKNOWN = ImageGuard(None, None, 1)


class Guards:
    """One check per request file, which is answered by one model."""

    def __init__(
        self,
        answers: AnswerIndex,
        *,
        max_tokens: int,
        same_size: bool,
        on_event: Callable[[str], None],
    ) -> None:
        """With `same_size`, all images have the size of the blank one.

        Raises:
            UserError: the model that answered a file does not see images.
        """
        alone, blank = _read_first(answers, ALONE), _read_first(answers, BLANK)
        self._checks: dict[int, AnswerCheck] = {}
        for number in sorted(answers.summary.returned):
            shown = blank.get(number)
            guard = ImageGuard.measure(
                f"the model that answered requests-{number:05d}.jsonl",
                text_tokens=read_count(alone.get(number), "prompt_tokens"),
                shown_tokens=read_count(shown, "prompt_tokens"),
                same_size=same_size,
            )
            self._checks[number] = AnswerCheck(guard, max_tokens, read_model(shown))
        self._usual = AnswerCheck(_UNKNOWN, max_tokens)
        if len(measured := self._list_measured()) > 1:
            tokens = ", ".join(f"{text} and {image}" for text, image in measured)
            on_event(
                f"prompt and image take different numbers of tokens ({tokens}) in different files "
                "of answers: do they come from one model?"
            )

    def choose(self, number: int) -> AnswerCheck:
        """The check for the answers to a request file."""
        return self._checks.get(number, self._usual)

    def knows(self, number: int, prompt_tokens: int | None) -> bool:
        """Whether token counts can show that the image was in the prompt."""
        return prompt_tokens is not None and self.choose(number).guard.text_tokens is not None

    def describe(self) -> dict[str, Any]:
        """The tokens of the prompt and of the blank image, and of each file that differs."""
        measured = self._list_measured()
        return {
            "prompt_tokens_without_image": [text for text, _ in measured],
            "image_tokens": [image for _, image in measured],
        }

    def _list_measured(self) -> list[tuple[int, int]]:
        guards = (check.guard for check in self._checks.values())
        found = {(guard.text_tokens, guard.image_tokens) for guard in guards}
        return sorted((text, image) for text, image in found if text and image)


def _read_first(answers: AnswerIndex, text: str) -> dict[int, Any]:
    """The first answer to one of the two requests, by the number of its file."""
    found: dict[int, Any] = {}
    for place in answers.find(text):
        try:
            found.setdefault(place.asked.number, open_response(answers.read(place)))
        except (ServerError, RefusedError):
            # It may require an image, or more than one token.
            continue
    return found
