"""The address that the page is to be served on, looked at before a model is loaded for it."""

from __future__ import annotations

import errno
import os
import socket

from wanact.errors import UserError


def require_free(host: str, port: int) -> None:
    """Return if the page can be served there.

    Args:
        host: a name or number of this machine, as of `--host`.
        port: as of `--port`.

    Raises:
        UserError: if the port is taken or not allowed, or the host is not this machine.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"--port {port} is no port; give one from 1024 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"--host {host} is no address; 127.0.0.1 serves this machine, 0.0.0.0 others too") from error
    with socket.socket(family, kind, protocol) as probe:
        if os.name != "nt":  # there it would allow two at once
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise UserError(_reason(host, port, error)) from error


def _reason(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use by another program; stop that one, or give another port with --port"
    if error.errno == errno.EACCES:
        return f"port {port} is reserved for administrators; give one from 1024 on with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is not an address of this machine; 127.0.0.1 serves this machine, 0.0.0.0 others too"
    return f"port {port} of {host} cannot be used: {error.strerror}"
