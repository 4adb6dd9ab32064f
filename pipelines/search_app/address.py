"""The address of the server."""

from __future__ import annotations

import errno
import ipaddress
import socket

from data.errors import UserError


def open_socket(host: str, port: int) -> socket.socket:
    """Bind to an address; port 0 is any free one.

    Raises:
        UserError: it is taken, or none of this machine's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind)
    except OSError as error:
        raise UserError(
            f"--host {host} is not an address of this machine: {error.strerror}"
        ) from error
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(address)
        opened.listen(128)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} of {host} is in use: specify another with --port, or 0 for any free "
                "port"
            ) from error
        raise UserError(f"cannot listen at {host}, port {port}: {error.strerror}") from error
    return opened


def is_local(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
