"""One image as a chat completion: the request body, and checks of the answer."""

import base64
import io
import json
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from captioner.engine.image_guard import ImageGuard
from captioner.engine.protocol import Generation
from captioner.engine.server.client import ServerError, clean_text
from captioner.llava.answer import Answer
from captioner.llava.chat_template import Prompt
from captioner.llava.sampling import Sampling

# The range of a shard's column.
MOST_TOKENS = 2**31 - 1
# Neutral values: vLLM's server fills in missing fields from the model's generation_config.json,
# which the local engine does not.
_VLLM_NEUTRAL = {"top_k": -1, "min_p": 0.0}
_TEXT_PARTS = (None, "text", "output_text")
# Approximate length of the longest tokens in vocabularies.
_LONGEST_TOKEN = 64


@dataclass(frozen=True)
class PromptSettings:
    """Settings shared by all requests of a run, or of one of its texts."""

    prompt: Prompt
    sampling: Sampling
    answer: Answer | None = None


@dataclass(frozen=True)
class RequestForm:
    """The form of requests to one server: the model's id there, and extra fields."""

    model: str
    extra: dict[str, Any] = field(default_factory=dict)
    takes_penalty: bool = False

    @classmethod
    def of_vllm(cls, model: str, *, starts: bool) -> "RequestForm":
        """The form for vLLM; with `starts`, it adds the token that begins every text."""
        extra = {**_VLLM_NEUTRAL, "add_special_tokens": starts}
        return cls(model, extra, takes_penalty=True)


@dataclass(frozen=True)
class AnswerCheck:
    """Checks of an answer: the same model, the image in the prompt, a plausible length.

    `model` is the name that the server reports.
    """

    guard: ImageGuard
    max_tokens: int
    model: str | None = None


def encode_image(image: Image.Image) -> str:
    """A data: URL of the image as PNG, so that the model sees exactly the prepared pixels."""
    buffer = io.BytesIO()
    # More compression takes three times as long and saves 5 %.
    image.save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def make_body(
    settings: PromptSettings,
    form: RequestForm,
    *,
    image: str | None,
    seed: int | None,
    repetition_penalty: float = 1.0,
    max_tokens: int | None = None,
) -> dict[str, Any]:
    """The body of /chat/completions: the image (a data: URL) first, then the text.

    The repetition penalty is only sent to servers that support it; see `RequestForm.takes_penalty`.
    """
    shown = None if image is None else {"type": "image_url", "image_url": {"url": image}}
    sampling = settings.sampling
    body = {
        "model": form.model,
        "messages": settings.prompt.make_messages(shown),
        "temperature": sampling.temperature,
        "top_p": 1.0 if sampling.temperature == 0 else sampling.top_p,
        "max_tokens": max_tokens or sampling.max_tokens,
        **form.extra,
    }
    if seed is not None:
        body["seed"] = seed
    if form.takes_penalty:
        body["repetition_penalty"] = repetition_penalty
    answer = settings.answer
    if answer is not None and answer.schema is not None:
        named = {"name": "answer", "strict": True, "schema": json.loads(answer.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    elif answer is not None:
        # A field of vLLM: other servers refuse or ignore it; their answers are checked.
        body["structured_outputs"] = {"choice": list(answer.choices)}
    return body


def read_answer(answer: Any, *, key: str, check: AnswerCheck) -> Generation:
    """The text and the counts of an answer.

    An answer without a text, far too long, or without the image becomes an error row.

    Raises:
        ServerError: it is not an answer, is from another model, or was interrupted by the server.
    """
    choice = find_choice(answer)
    text, reason = _join_parts(choice["message"].get("content")), choice.get("finish_reason")
    model = read_model(answer)
    if None not in (model, check.model) and model != check.model:
        raise ServerError(f"another model answered: {clean_text(str(model))}")
    if reason == "abort":
        # A vLLM server that is shutting down ends its requests in this way; another server repeats
        # them.
        raise ServerError("the server aborted the text")
    prompt_tokens = read_count(answer, "prompt_tokens")
    error = None
    if reason not in ("stop", "length"):
        error = f"the server ended the text with {clean_text(repr(reason))}"
    elif text is None:
        error = "the answer contains no text"
        if reason == "length":
            error += ", and --max-tokens is used up: increase it for a model that reasons first"
    elif len(text) > _LONGEST_TOKEN * check.max_tokens:
        error = f"the answer has {len(text):,} characters, more than --max-tokens can be"
    return Generation(
        key=key,
        text=text or "",
        finish_reason=reason if isinstance(reason, str) else None,
        prompt_tokens=prompt_tokens,
        caption_tokens=read_count(answer, "completion_tokens"),
        error=error or check.guard.explain_missing(prompt_tokens),
    )


def read_count(answer: Any, name: str) -> int | None:
    """A count from the answer's usage, None if there is no valid one.

    Every prompt has a token: servers that do not count report zeros.
    """
    usage = answer.get("usage") if isinstance(answer, dict) else None
    count = usage.get(name) if isinstance(usage, dict) else None
    least = 1 if name == "prompt_tokens" else 0
    fits = isinstance(count, int) and not isinstance(count, bool) and least <= count <= MOST_TOKENS
    return count if fits else None


def read_model(answer: Any) -> str | None:
    """The model name in the answer, if any."""
    model = answer.get("model") if isinstance(answer, dict) else None
    return model if isinstance(model, str) else None


def find_choice(answer: Any) -> dict[str, Any]:
    """The only completion of an answer, whose "message" is a mapping.

    Raises:
        ServerError: there is none.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not (isinstance(choice, dict) and isinstance(choice.get("message"), dict)):
        raise ServerError("the answer contains no choices")
    return choice


def _join_parts(content: Any) -> str | None:
    """The text of a message; None if it has none (null, or only reasoning and images)."""
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else {"text": part} for part in content]
        # Parts of other types are reasoning or refusals.
        told = [part.get("text") for part in parts if part.get("type") in _TEXT_PARTS]
        texts = [text for text in told if isinstance(text, str)]
        return "".join(texts) if texts else None
    return content if isinstance(content, str) else None
