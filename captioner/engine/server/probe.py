"""What is asked of every server before the first image.

Which models it serves, whether it sees an image, and how it is to be prompted.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from PIL import Image

from captioner.engine.server.address import normalise_addresses, read_key
from captioner.engine.server.chat import (
    ImageCheck,
    PromptSettings,
    RequestForm,
    encode_image,
    make_body,
    read_count,
)
from captioner.engine.server.client import RefusedError, ServerClient, ServerError, clean_text
from captioner.engine.server.loop_thread import LoopThread
from captioner.llava.names import parse_model_name
from data.errors import UserError

# The side of the blank image that is shown, in pixels.
_SIDE = 336
# A place for the image that is left standing as text takes a few tokens; so many, an image.
_SURELY_AN_IMAGE = 16
# Neutral values: vLLM takes what a request leaves open from the model's generation_config.json,
# which the engine in our own process does not.
_VLLM_NEUTRAL = {"top_k": -1, "min_p": 0.0}
# Long enough for a server that is busy captioning; a start is not kept waiting longer.
_START_SECONDS = 30.0


@dataclass(frozen=True)
class ServedModelAt:
    """The model as one server has it: its id there, and what else the server told."""

    address: str
    id: str
    owned_by: str | None = None
    root: str | None = None
    max_model_len: int | None = None
    version: str | None = None

    @property
    def is_vllm(self) -> bool:
        """Whether fields that only vLLM knows may be sent."""
        return self.owned_by == "vllm"


@dataclass(frozen=True)
class ServedModel:
    """One model at one or several servers. Their weights are not known, only their names."""

    model: str
    servers: tuple[ServedModelAt, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.model, "servers": [asdict(server) for server in self.servers]}


def describe_servers(urls: Sequence[str], model: str) -> ServedModel:
    """Ask every server what it serves, and find `model` among it.

    A server's model is `model` if its id or its root is the name itself, the Hub repository or
    folder that `--model` means, or ends in the same folder name.

    Raises:
        UserError: an address that is none, a server that does not answer or wants a key, or one
            that serves something else (the message lists what).
    """
    addresses, key = normalise_addresses(urls), read_key()
    with LoopThread("d2s-servers") as thread:
        found = thread.call(_describe_all(addresses, model, key))
    name = model
    with contextlib.suppress(UserError):
        name = parse_model_name(model).name
    return ServedModel(name, tuple(found))


async def _describe_all(addresses: list[str], model: str, key: str | None) -> list[ServedModelAt]:
    answers = [_describe_one(address, model, key) for address in addresses]
    return list(await asyncio.gather(*answers))


async def _describe_one(address: str, model: str, key: str | None) -> ServedModelAt:
    client = ServerClient(address, key=key, connections=1, timeout=_START_SECONDS)
    try:
        card = _find_card(await _list_cards(client), model, address)
        served = ServedModelAt(
            address=address,
            id=card["id"],
            owned_by=_read(card, "owned_by", str),
            root=_read(card, "root", str),
            max_model_len=_read(card, "max_model_len", int),
        )
        if not served.is_vllm:
            return served
        return ServedModelAt(**{**asdict(served), "version": await _ask_version(client)})
    finally:
        await client.close()


async def _list_cards(client: ServerClient) -> list[dict[str, Any]]:
    url = f"{client.address}/models"
    try:
        answer = await client.get(url)
    except (ServerError, RefusedError) as error:
        raise UserError(
            f"{url}: {error}: is the server started, and --server its address?"
        ) from error
    listed = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(listed, list):
        raise UserError(f"{url} lists no models: is this an OpenAI-compatible server's address?")
    return [card for card in listed if isinstance(card, dict) and isinstance(card.get("id"), str)]


async def _ask_version(client: ServerClient) -> str | None:
    """vLLM's version; a proxy before it may not let the question through."""
    with contextlib.suppress(ServerError, RefusedError, UserError):
        answer = await client.get(f"{client.root}/version")
        if isinstance(answer, dict):
            return _read(answer, "version", str)
    return None


def _find_card(cards: list[dict[str, Any]], model: str, address: str) -> dict[str, Any]:
    names = list(_list_names(model))
    last_names = {PurePath(name).name for name in names}
    tests = (
        lambda card: card["id"] in names,
        lambda card: _read(card, "root", str) in names,
        lambda card: PurePath(card["id"]).name in last_names,
        lambda card: PurePath(_read(card, "root", str) or "/").name in last_names,
    )
    for test in tests:
        # The best way in which any matches decides: adapters have their base's root.
        if found := [card for card in cards if test(card)]:
            return found[0]
    served = ", ".join(clean_text(card["id"]) for card in cards[:10]) or "nothing"
    raise UserError(f"{address} does not serve {model}; it serves {served}: name that as --model")


def _list_names(model: str) -> Iterable[str]:
    """All that a server may call the model."""
    yield model
    with contextlib.suppress(UserError):
        found = parse_model_name(model)
        yield from (found.name, found.repository or found.name)
        if found.folder is not None:
            yield str(found.folder)


def _read(card: dict[str, Any], name: str, kind: type) -> Any:
    value = card.get(name)
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class ServerProfile:
    """How one server is to be asked, and what the questions took.

    `rendered_prompt` is the prompt in the model's template, where the server tells it.
    """

    form: RequestForm
    check: ImageCheck
    prompt_tokens: int | None
    rendered_prompt: str | None


async def probe_server(
    client: ServerClient,
    served: ServedModelAt,
    settings: PromptSettings,
    *,
    image_tokens: int | None,
) -> ServerProfile:
    """Ask for one token with a blank image and without any.

    Raises:
        UserError: the server refuses, fails, has no room for the text, or does not see the image.
    """
    form, answer = await _choose_form(client, served, settings)
    text_tokens = read_count(answer, "prompt_tokens")
    blank = encode_image(Image.new("RGB", (_SIDE, _SIDE)))
    shown = await _ask(client, settings, form, image=blank)
    prompt_tokens = read_count(shown, "prompt_tokens")
    _check_seen(served, text_tokens, prompt_tokens, image_tokens)
    _check_room(served, prompt_tokens, settings.sampling.max_tokens)
    rendered = shown.get("prompt_text") if isinstance(shown, dict) else None
    return ServerProfile(
        form=form,
        # A small image takes fewer tokens than the blank one, where it depends on the size.
        check=ImageCheck(text_tokens, image_tokens or 1),
        prompt_tokens=prompt_tokens,
        rendered_prompt=rendered if isinstance(rendered, str) else None,
    )


def check_alike(servers: list[ServedModelAt], profiles: list[ServerProfile]) -> None:
    """Raises UserError if a text would depend on which of the servers writes it."""
    first = profiles[0]
    for served, profile in zip(servers[1:], profiles[1:], strict=True):
        for what, here, there in (
            ("tokens of the prompt", profile.check.text_tokens, first.check.text_tokens),
            ("tokens with an image", profile.prompt_tokens, first.prompt_tokens),
            ("prompt", profile.rendered_prompt, first.rendered_prompt),
        ):
            if here is not None and there is not None and here != there:
                raise UserError(
                    f"the servers differ: {what} {there!r} at {servers[0].address}, "
                    f"{here!r} at {served.address}: start them with the same model and options"
                )


async def _choose_form(
    client: ServerClient, served: ServedModelAt, settings: PromptSettings
) -> tuple[RequestForm, Any]:
    """The fields to send, and the answer to the prompt without an image (None if refused)."""
    if not served.is_vllm:
        form = RequestForm(served.id)
        return form, await _ask(client, settings, form, image=None)
    # Otherwise vLLM's chat leaves out the token that begins every text, which models know.
    form = _make_vllm_form(served, starts=True)
    answer = await _ask(client, settings, form, image=None)
    ids = _read_ids(answer)
    if len(ids) > 1 and ids[0] == ids[1]:
        # The template has it too, and models know it once.
        other = _make_vllm_form(served, starts=False)
        again = await _ask(client, settings, other, image=None)
        if _read_ids(again) == ids[1:]:
            return other, again
    return form, answer


def _make_vllm_form(served: ServedModelAt, *, starts: bool) -> RequestForm:
    extra = {**_VLLM_NEUTRAL, "add_special_tokens": starts}
    return RequestForm(served.id, extra, takes_penalty=True)


async def _ask(
    client: ServerClient, settings: PromptSettings, form: RequestForm, *, image: str | None
) -> Any:
    body = make_body(settings, form, image=image, seed=0, max_tokens=1)
    if form.extra:
        body |= {"return_token_ids": True, "return_prompt_text": True}
    try:
        return await client.post(f"{client.address}/chat/completions", body)
    except (ServerError, RefusedError) as error:
        if image is None and isinstance(error, RefusedError):
            return None  # it may insist on an image
        shown = "an image" if image else "the prompt"
        raise UserError(
            f"{client.address} cannot be used: asked for a token after {shown}, it gave: {error}"
        ) from error


def _read_ids(answer: Any) -> list[Any]:
    ids = answer.get("prompt_token_ids") if isinstance(answer, dict) else None
    return ids if isinstance(ids, list) else []


def _check_seen(
    served: ServedModelAt, without: int | None, shown: int | None, image_tokens: int | None
) -> None:
    if without is None or shown is None:
        return
    if shown - without < (image_tokens or _SURELY_AN_IMAGE):
        raise UserError(
            f"{served.address} does not put images into the prompt ({shown} tokens with one, "
            f"{without} without): serve a model that looks at images"
        )


def _check_room(served: ServedModelAt, prompt_tokens: int | None, max_tokens: int) -> None:
    if served.max_model_len is None:
        return
    needed = (prompt_tokens or 0) + max_tokens
    if needed > served.max_model_len:
        raise UserError(
            f"{served.address} has room for {served.max_model_len} tokens and {needed} are needed "
            f"({prompt_tokens or 0} of them for the prompt): start it with a larger "
            "--max-model-len, or give a smaller --max-tokens"
        )
