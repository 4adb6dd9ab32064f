"""An image from decoding to the last of its texts, and the prompt for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from PIL import Image

from captioner.decode.pool import Decoded
from captioner.engine.protocol import Ask, Generation, Request
from captioner.run.writer import Place
from captioner.settings.template import UnfilledError
from captioner.store.journal import Outcome, make_key
from captioner.store.row_form import RowForm
from data.images import Status
from data.sources import ImageRecord

# Looks up the outcome of a text that others read, None if there is none yet.
Find = Callable[[str], Outcome | None]


class NotYetError(Exception):
    """A text that this prompt reads does not exist yet."""


@dataclass(frozen=True)
class ImageKey:
    """The shard and image of a job."""

    index: int
    image: ImageRecord


@dataclass
class Photo:
    """An image that is being captioned; `waiting` are the texts not yet requested."""

    decoded: Decoded
    image: Image.Image | None
    waiting: list[Place]

    @property
    def key(self) -> ImageKey:
        key: ImageKey = self.decoded.key
        return key

    def make_outcome(self, place: Place, status: str, error: str | None) -> Outcome:
        """An outcome without a text for this image."""
        return make_outcome(self.decoded, place, status, error)


@dataclass
class Pending:
    """A text in flight."""

    photo: Photo
    place: Place
    request: Request
    tries: list[Generation] = field(default_factory=list)

    @property
    def hint(self) -> str:
        """A hint for the error message if the engine fails."""
        asked = self.request.ask
        kept = asked is not None and asked.answer is not None
        return " (choices or a schema that the model may be unable to write)" if kept else ""

    def conclude(self) -> Outcome:
        """The outcome with the best attempt.

        Raises:
            ValueError: it does not match the choices or the schema.
        """
        writer = self.place.writer
        attempt, generation = writer.policy.choose(self.tries)
        text, trimmed, cut_back = writer.policy.finish_text(generation)
        if writer.form.answer is not None:
            try:
                text = writer.form.answer.keep(text)
            except ValueError as reason:
                cut = ", cut at max_tokens" if generation.finish_reason == "length" else ""
                raise ValueError(f"{cut}: {reason}") from reason
        return replace(
            self.photo.make_outcome(self.place, Status.OK, None),
            caption=text,
            finish_reason=generation.finish_reason,
            prompt_tokens=generation.prompt_tokens,
            caption_tokens=generation.caption_tokens,
            attempt=attempt,
            trimmed=trimmed,
            truncated=cut_back or None,
        )


def make_ask(
    photo: Photo, place: Place, told: Mapping[str, Find], forms: Mapping[str, RowForm]
) -> Ask | None:
    """The request for a text; None if it is the engine's own prompt.

    `told` finds the outcomes, and `forms` has the row forms, of the texts that it can read.

    Raises:
        UnfilledError: something that it reads is missing and will not come.
        NotYetError: it is missing but will come.
    """
    asked = place.writer.prepared.text
    if asked is None:
        return None
    texts = {}
    for name in asked.reads:
        # With equal numbers of samples, each reads its own; else they are used in turn.
        numbers = forms[name].numbers
        number = numbers[(place.sample or 0) % len(numbers)]
        outcome = told[name](make_key(photo.key.image.sample_id, number))
        if outcome is None:
            raise NotYetError
        if not outcome.caption:
            raise UnfilledError(f"texts.{name} is {outcome.error or 'empty'}")
        texts[name] = outcome.caption
    text = asked.config.text
    folder = place.writer.prepared.choice.folder
    filled = asked.template.fill(photo.key.image, texts, folder=folder)
    return Ask(replace(text.asked, text=filled), text.sampling, asked.answer)


def make_outcome(decoded: Decoded, place: Place, status: str, error: str | None) -> Outcome:
    """An outcome without a text for a decoded image."""
    key: ImageKey = decoded.key
    return Outcome(
        sample_id=key.image.sample_id,
        status=status,
        error=error,
        width=decoded.width,
        height=decoded.height,
        image_sha256=decoded.sha256,
        sample=place.sample,
    )
