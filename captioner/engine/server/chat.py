"""One image as a chat completion: the body that is sent, and what its answer must hold."""

import base64
import io
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from captioner.engine.protocol import Generation
from captioner.engine.server.client import ServerError, clean_text
from captioner.llava.sampling import Sampling


@dataclass(frozen=True)
class PromptSettings:
    """What every request of a run has in common."""

    prompt: str
    sampling: Sampling


@dataclass(frozen=True)
class RequestForm:
    """How one server is asked: the model's id there, and fields that only it knows."""

    model: str
    extra: dict[str, Any] = field(default_factory=dict)
    takes_penalty: bool = False


@dataclass(frozen=True)
class ImageCheck:
    """What shows that the image was in the prompt.

    `text_tokens` is what the prompt takes without one, None if the server does not count;
    `image_tokens` is the least that an image adds.
    """

    text_tokens: int | None
    image_tokens: int

    def explain_missing(self, prompt_tokens: int | None) -> str | None:
        """Why the image was not in a prompt of so many tokens; None if it was, or nobody knows."""
        if prompt_tokens is None or self.text_tokens is None:
            return None
        seen = prompt_tokens - self.text_tokens
        if seen >= self.image_tokens:
            return None
        return (
            f"the image was not in the prompt: {prompt_tokens} tokens, "
            f"{self.text_tokens} without an image and at least {self.image_tokens} for one"
        )


def encode_image(image: Image.Image) -> str:
    """A data: URL of the image as PNG: the model sees the very pixels that were prepared."""
    buffer = io.BytesIO()
    # More compression takes three times as long and saves a twentieth.
    image.save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def make_body(
    settings: PromptSettings,
    form: RequestForm,
    *,
    image: str | None,
    seed: int,
    repetition_penalty: float = 1.0,
    max_tokens: int | None = None,
) -> dict[str, Any]:
    """The body of /chat/completions: the image (a data: URL) first, then the text.

    The repetition penalty goes to servers that know the field; see `RequestForm.takes_penalty`.
    """
    content: list[dict[str, Any]] = [{"type": "text", "text": settings.prompt}]
    if image is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": image}})
    sampling = settings.sampling
    body = {
        "model": form.model,
        "messages": [{"role": "user", "content": content}],
        "temperature": sampling.temperature,
        "top_p": 1.0 if sampling.temperature == 0 else sampling.top_p,
        "max_tokens": max_tokens or sampling.max_tokens,
        "seed": seed,
        **form.extra,
    }
    if form.takes_penalty:
        body["repetition_penalty"] = repetition_penalty
    return body


def read_answer(answer: Any, *, key: str, check: ImageCheck) -> Generation:
    """The text and the counts of an answer; an image that was not seen is an error of its row.

    Raises:
        ServerError: there is no text in it, or the server broke it off.
    """
    choice = _find_choice(answer)
    text = choice["message"].get("content") or ""
    reason = choice.get("finish_reason")
    if not isinstance(text, str):
        raise ServerError("the answer's content is not text")
    if reason == "abort":
        # A vLLM that is being stopped ends so what it has; another server does it anew.
        raise ServerError("the server broke the text off")
    prompt_tokens = read_count(answer, "prompt_tokens")
    error = None
    if reason not in ("stop", "length"):
        error = f"the server ended it with {clean_text(repr(reason))}"
    return Generation(
        key=key,
        text=text,
        finish_reason=reason if isinstance(reason, str) else None,
        prompt_tokens=prompt_tokens,
        caption_tokens=read_count(answer, "completion_tokens"),
        error=error or check.explain_missing(prompt_tokens),
    )


def read_count(answer: Any, name: str) -> int | None:
    """A count of the answer's usage, None if the server does not say."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) else None


def _find_choice(answer: Any) -> dict[str, Any]:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not (isinstance(choice, dict) and isinstance(choice.get("message"), dict)):
        raise ServerError("the answer holds no choices")
    return choice
