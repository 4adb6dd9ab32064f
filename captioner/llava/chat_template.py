"""The prompt as the model was trained to be asked."""

from captioner.llava.weights import Weights
from data.errors import UserError, shorten_error


def count_tokens(weights: Weights, rendered: str) -> int:
    """Tokens of a rendered prompt, its image's place counting as one.

    Raises:
        UserError: the tokenizer cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(weights.path, trust_remote_code=False)
        return len(tokenizer(rendered).input_ids)
    except (ValueError, OSError, ImportError) as error:
        raise UserError(
            f"the tokenizer of {weights.model} cannot be loaded: {shorten_error(error)}"
        ) from error


def render_prompt(weights: Weights, prompt: str) -> str:
    """The prompt in the model's own conversation, with the image's place in it.

    Raises:
        UserError: the template cannot be used, or the prompt names the image's place itself.
    """
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(weights.path, trust_remote_code=False)
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        rendered = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    except (ValueError, OSError, ImportError, AttributeError) as error:
        raise UserError(
            f"the prompt cannot be put into {weights.model}'s chat template: {shorten_error(error)}"
        ) from error
    token = getattr(processor, "image_token", "<image>")
    if rendered.count(token) != 1:
        raise UserError(
            f"the prompt must hold the image once, and with {weights.model}'s chat template it "
            f"holds {token} {rendered.count(token)} times: leave {token} out of --prompt"
        )
    start = processor.tokenizer.bos_token
    if start and rendered.startswith(start):
        ids = processor.tokenizer(rendered).input_ids
        if ids[:2] == [processor.tokenizer.bos_token_id] * 2:
            # The tokenizer adds one too, and models were trained with one.
            rendered = rendered.removeprefix(start)
    return str(rendered)


def read_chat_template(weights: Weights) -> str | None:
    """The model's own chat template as its files have it, or None."""
    path = weights.path / "chat_template.jinja"
    if path.is_file():
        return path.read_text("utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        template = weights.read_json(name).get("chat_template")
        if isinstance(template, str):
            return template
    return None
