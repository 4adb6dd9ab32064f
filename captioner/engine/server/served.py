"""Asking servers for their models, before anything is written."""

import asyncio
import contextlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from captioner.engine.config import ServerConfig
from captioner.engine.server.address import normalise_addresses, read_key
from captioner.engine.server.client import RefusedError, ServerClient, ServerError, clean_text
from captioner.engine.server.loop_thread import LoopThread
from captioner.engine.server.patience import Patience, Say
from captioner.engine.stopping import check_stop
from captioner.llava.names import parse_model_name
from data.errors import UserError
from data.escaping import show_name

# Long enough for a server that is busy captioning.
_START_SECONDS = 30.0


@dataclass(frozen=True)
class ServedModelAt:
    """The model on one server: its id there, and what else the server reports."""

    address: str
    id: str
    owned_by: str | None = None
    root: str | None = None
    max_model_len: int | None = None
    version: str | None = None

    @property
    def is_vllm(self) -> bool:
        """Whether fields that only vLLM supports can be sent."""
        return self.owned_by == "vllm"


def print_event(line: str) -> None:
    """Print an event of a server, if there is no other receiver."""
    print(show_name(line), file=sys.stderr)


def describe_servers(
    config: ServerConfig, model: str, *, on_event: Say = print_event
) -> list[ServedModelAt]:
    """Ask every server what it serves, and find `model` among it.

    A server's model is `model` if its id or its root is the name itself, the Hub repository or
    folder that `--model` means, or ends in the same folder name.

    Servers that are overloaded or still starting are polled within the patience.

    Raises:
        UserError: an invalid address, a server that does not answer or requires a key, or one that
            serves another model (the message lists its models).
    """
    addresses, key = normalise_addresses(config.servers), read_key()

    async def describe_all() -> list[ServedModelAt]:
        answers = (
            _describe_one(address, model, key, Patience(config.patience, on_event))
            for address in addresses
        )
        return list(await asyncio.gather(*answers))

    with LoopThread("d2s-servers") as thread:
        return thread.call(describe_all(), check=check_stop)


async def _describe_one(
    address: str, model: str, key: str | None, patience: Patience
) -> ServedModelAt:
    client = ServerClient(address, key=key, connections=1, timeout=_START_SECONDS)
    try:
        card = _find_card(await _list_cards(client, patience), model, address)
        served = ServedModelAt(
            address=address,
            id=card["id"],
            owned_by=_read(card, "owned_by", str),
            root=_read(card, "root", str),
            max_model_len=max(0, _read(card, "max_model_len", int) or 0) or None,
        )
        if not served.is_vllm:
            return served
        return replace(served, version=await _ask_version(client))
    finally:
        await client.close()


async def _list_cards(client: ServerClient, patience: Patience) -> list[dict[str, Any]]:
    url = f"{client.address}/models"
    try:
        answer = await patience.ask(client.address, lambda: client.get(url))
    except (ServerError, RefusedError) as error:
        raise UserError(
            f"{url}: {error}: is the server running, and is --server its address?"
        ) from error
    listed = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(listed, list):
        raise UserError(f"{url} lists no models: is this an OpenAI-compatible server's address?")
    return [card for card in listed if isinstance(card, dict) and isinstance(card.get("id"), str)]


async def _ask_version(client: ServerClient) -> str | None:
    """vLLM's version; a proxy in front of it may block this request."""
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
        # The best kind of match decides, since adapters have the root of their base model.
        if found := [card for card in cards if test(card)]:
            return found[0]
    served = ", ".join(clean_text(card["id"]) for card in cards[:10]) or "nothing"
    raise UserError(f"{address} does not serve {model}; it serves {served}: use that as --model")


def _list_names(model: str) -> Iterable[str]:
    """All names that a server may use for the model."""
    yield model
    with contextlib.suppress(UserError):
        found = parse_model_name(model)
        yield from (found.name, found.repository or found.name)
        if found.folder is not None:
            yield str(found.folder)


def _read(card: dict[str, Any], name: str, kind: type) -> Any:
    value = card.get(name)
    return value if isinstance(value, kind) and not isinstance(value, bool) else None
