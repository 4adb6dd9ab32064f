"""Checks that a prompt contains its image, by comparing token counts with and without one."""

from __future__ import annotations

from dataclasses import dataclass

from data.errors import UserError

# An unreplaced image placeholder takes a few tokens; an image takes at least this many.
_SURELY_AN_IMAGE = 16


@dataclass(frozen=True)
class ImageGuard:
    """Measured once, when an engine starts.

    `text_tokens` is the length of the prompt without an image, None if unknown; `image_tokens` what
    the blank image added; `least` what every image must add.
    """

    text_tokens: int | None
    image_tokens: int | None
    least: int

    @classmethod
    def measure(
        cls, who: str, *, text_tokens: int | None, shown_tokens: int | None, same_size: bool
    ) -> ImageGuard:
        """`shown_tokens` is the length of the prompt with a blank image.

        With `same_size` all images are prepared to the blank one's size, and take as many tokens.

        Raises:
            UserError: the blank image is not in the prompt; `who` is named in the message.
        """
        if text_tokens is None or shown_tokens is None:
            return cls(text_tokens, None, 1)
        added = shown_tokens - text_tokens
        if added < _SURELY_AN_IMAGE:
            raise UserError(
                f"{who} does not include images in the prompt ({shown_tokens} tokens with an "
                f"image, {text_tokens} without): use a model that reads images"
            )
        return cls(text_tokens, added, added if same_size else 1)

    @property
    def knows_other_prompts(self) -> bool:
        """Whether `for_any_prompt` can tell anything: every prompt is longer than one token."""
        return self.least > 1

    def for_any_prompt(self) -> ImageGuard:
        """The guard for prompts of unknown length: all of it may be the image's."""
        return ImageGuard(0, self.image_tokens, self.least)

    def explain_missing(self, prompt_tokens: int | None) -> str | None:
        """Why a prompt of this length lacks its image; None if it does not, or this is unknown."""
        if prompt_tokens is None or self.text_tokens is None:
            return None
        if prompt_tokens - self.text_tokens >= self.least:
            return None
        return (
            f"the image was not in the prompt: {prompt_tokens} tokens, "
            f"{self.text_tokens} without an image and at least {self.least} for one"
        )
