"""An image from its decoding to the last of its texts, and what each of them asks."""

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

# The outcome by its key of a text that others read, None as long as there is none.
Find = Callable[[str], Outcome | None]


class NotYetError(Exception):
    """A text that is read is still to come."""


@dataclass(frozen=True)
class ImageKey:
    """Which image of which shard a job is for."""

    index: int
    image: ImageRecord


@dataclass
class Photo:
    """An image of which texts are made; `waiting` are those that were not asked for yet."""

    decoded: Decoded
    image: Image.Image | None
    waiting: list[Place]

    @property
    def key(self) -> ImageKey:
        key: ImageKey = self.decoded.key
        return key

    def make_outcome(self, place: Place, status: str, error: str | None) -> Outcome:
        """An outcome of this image without a text."""
        return make_outcome(self.decoded, place, status, error)


@dataclass
class Pending:
    """A text in the engine."""

    photo: Photo
    place: Place
    request: Request
    tries: list[Generation] = field(default_factory=list)

    @property
    def hint(self) -> str:
        """What to think of if the engine fails."""
        asked = self.request.ask
        kept = asked is not None and asked.answer is not None
        return " (choices or a schema that the model may be unable to write)" if kept else ""

    def conclude(self) -> Outcome:
        """The outcome with the best of its tries.

        Raises:
            ValueError: it is not what choices or a schema ask for.
        """
        writer = self.place.writer
        attempt, generation = writer.policy.choose(self.tries)
        text, trimmed = writer.policy.finish_text(generation)
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
        )


def make_ask(
    photo: Photo, place: Place, told: Mapping[str, Find], forms: Mapping[str, RowForm]
) -> Ask | None:
    """What is asked for a text; None where it is the engine's own prompt.

    `told` finds the outcomes, and `forms` has the rows, of the texts that it may read.

    Raises:
        UnfilledError: something that it reads is not there, and will not be.
        NotYetError: it will be.
    """
    asked = place.writer.prepared.text
    if asked is None:
        return None
    texts = {}
    for name in asked.reads:
        # Of as many samples each reads its own; else all read what there is, in turn.
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
    """An outcome without a text, of an image as it was decoded."""
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
