"""The prompt in the model's own chat template."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image

from captioner.llava.weights import Weights
from data.errors import UserError, shorten_error

# Named system prompts: the one LLaVA-1.5 was tuned with (haotian-liu/LLaVA, `vicuna_v1`).
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
# Templates of models without one in their files; PaliGemma's processor puts the image first.
_OWN_TEMPLATES = {"paligemma": "{{ messages[-1]['content'][-1]['text'] + '\n' }}"}


@dataclass(frozen=True)
class Prompt:
    """The prompt for every image, and the system prompt (`vicuna` for VICUNA)."""

    text: str
    system: str | None = None

    def make_messages(self, image: dict[str, Any] | None) -> list[dict[str, Any]]:
        """The conversation in the format of chat templates and servers, with the image first."""
        content = [*([image] if image else []), {"type": "text", "text": self.text}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if self.system is not None:
            words = VICUNA if self.system == "vicuna" else self.system
            before = {"role": "system", "content": [{"type": "text", "text": words}]}
            messages.insert(0, before)
        return messages


def render_prompt(weights: Weights, prompt: Prompt) -> str:
    """Render the prompt in the model's chat template, with the image placeholder.

    Raises:
        UserError: the template cannot be used or drops something, or the prompt contains an image
            placeholder.
    """
    rendered = _render(weights, prompt)
    if _starts_twice(weights, rendered):
        # The tokenizer adds one too, but models were trained with one.
        rendered = rendered.removeprefix(_load_processor(weights).tokenizer.bos_token)
    return rendered


def needs_start(weights: Weights, prompt: Prompt) -> bool:
    """Whether the tokenizer has to add the BOS token, because the template does not.

    Raises:
        UserError: as for `render_prompt`.
    """
    return not _starts_twice(weights, _render(weights, prompt))


def _starts_twice(weights: Weights, rendered: str) -> bool:
    tokenizer = _load_processor(weights).tokenizer
    start = tokenizer.bos_token
    if not (start and rendered.startswith(start)):
        return False
    return bool(tokenizer(rendered).input_ids[:2] == [tokenizer.bos_token_id] * 2)


def _render(weights: Weights, prompt: Prompt) -> str:
    from jinja2 import TemplateError

    processor = _load_processor(weights)
    messages = prompt.make_messages({"type": "image"})
    try:
        rendered = processor.apply_chat_template(
            messages,
            chat_template=read_chat_template(weights),
            add_generation_prompt=True,
            tokenize=False,
        )
    except (ValueError, AttributeError, TemplateError) as error:
        raise UserError(
            f"the prompt cannot be put into {weights.model}'s chat template: {shorten_error(error)}"
        ) from error
    token = getattr(processor, "image_token", "<image>")
    places = 0 if _find_own_template(weights) else 1
    if rendered.count(token) != places:
        raise UserError(
            "the prompt must contain the image once, but with the chat template of "
            f"{weights.model} it contains {token} {rendered.count(token)} times: remove {token} "
            "from --prompt"
        )
    for message in messages:
        words = message["content"][-1]["text"].strip()
        if words not in rendered:
            option = "--system" if message["role"] == "system" else "--prompt"
            raise UserError(f"{weights.model}'s chat template leaves {option} out: {words[:60]!r}")
    return str(rendered)


def count_most_tokens(weights: Weights, rendered: str, images: Iterable[Image.Image]) -> int:
    """The maximum length of the rendered prompt with any of the images, in tokens.

    Raises:
        UserError: the model's processor does not accept them.
    """
    processor = _load_processor(weights)
    token = processor.image_token
    text = rendered if token in rendered else token + rendered
    try:
        asked = (processor(text=[text], images=[image]) for image in images)
        return max(len(inputs["input_ids"][0]) for inputs in asked)
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise UserError(
            f"the processor of {weights.model} does not accept an image: {shorten_error(error)}"
        ) from error


def read_chat_template(weights: Weights) -> str | None:
    """The chat template in the model's files, or the known one for this model, or None."""
    path = weights.path / "chat_template.jinja"
    if path.is_file():
        return path.read_text("utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        template = weights.read_json(name).get("chat_template")
        if isinstance(template, str):
            return template
    return _find_own_template(weights)


def _find_own_template(weights: Weights) -> str | None:
    return _OWN_TEMPLATES.get(weights.read_json("config.json").get("model_type", ""))


@lru_cache(maxsize=1)
def _load_processor(weights: Weights) -> Any:
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(weights.path, trust_remote_code=False)
    except (ValueError, OSError, ImportError, AttributeError, TypeError) as error:
        raise UserError(
            f"the processor of {weights.model} cannot be loaded: {shorten_error(error)}"
        ) from error
