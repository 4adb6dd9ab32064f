"""Addresses of servers, and the API key."""

import ipaddress
import os
import re
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from data.errors import UserError

KEY_VARIABLE = "OPENAI_API_KEY"
_VERSION = re.compile(r"v\d+\w*")
_ENDPOINT = "/chat/completions"


def normalise_addresses(addresses: Sequence[str]) -> list[str]:
    """Normalize addresses to base addresses ending in /v1, in the order given, without duplicates.

    `http://host:8000`, `http://host:8000/v1/` and `http://host:8000/v1/chat/completions` are the
    same.

    Raises:
        UserError: no address, or one that is invalid.
    """
    found = list(dict.fromkeys(normalise_address(address) for address in addresses))
    if not found:
        raise UserError("--server needs an address, such as http://127.0.0.1:8000")
    return found


def normalise_address(address: str) -> str:
    """One base address, ending in /v1 (or in the given version), without a slash.

    Raises:
        UserError: not an http(s) address, or one with a user, a query or a fragment.
    """
    parts = _split(address.strip())
    if parts.username is not None or parts.password is not None:
        # It would be stored in run.json; it is not printed either.
        raise UserError(
            "--server contains a user name or password: remove it, and put the server's key into "
            f"{KEY_VARIABLE}"
        )
    if parts.query or parts.fragment:
        raise UserError(
            f"--server {address!r} is more than an address: remove everything after the ? or #"
        )
    path = parts.path.rstrip("/").removesuffix(_ENDPOINT)
    if not _VERSION.fullmatch(path.rsplit("/", 1)[-1]):
        path += "/v1"
    return f"{parts.scheme}://{parts.netloc.lower()}{path}"


def is_loopback(address: str) -> bool:
    """Whether the server is on this machine, so that no proxy must be used."""
    host = urlsplit(address).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_key() -> str | None:
    """The API key from the environment; it is never printed or stored.

    Raises:
        UserError: a key that is not valid in a header.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            f"{KEY_VARIABLE} contains characters that cannot be part of a key: set it again"
        )
    return key or None


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    else:
        clean = address.isprintable() and " " not in address
        if named and clean and parts.scheme in ("http", "https"):
            return parts
    raise UserError(
        f"--server {address!r} is not the address of a server, such as http://127.0.0.1:8000"
    )
