"""Asks a running server's admin side, for the commands."""

import errno
import http.client
import json
import os
import socket
import struct
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from modelserver.admin.address import AdminAddress, BadAddress, admin_address, read_token
from modelserver.admin.health import Health
from modelserver.settings import Settings

_TIMEOUT_S = 5.0
_REFUSALS = (409, 422)

Document = TypeVar("Document")


class NoServer(Exception):
    """Failure to reach a server; the text says where and why."""


class Refused(Exception):
    """The server refuses: the text says why."""


def fetch_health(settings: Settings) -> Health:
    """Return the health of the server with these settings. Raises `NoServer`."""
    return fetch(settings, "/admin/health", Health)


def fetch(
    settings: Settings,
    path: str,
    kind: type[Document],
    *,
    method: str = "GET",
    timeout_s: float = _TIMEOUT_S,
) -> Document:
    """Request `path` from the admin side of the server with these settings. Raises `NoServer`, or
    `Refused` with the server's reason."""
    try:
        address = admin_address(settings.admin)
    except BadAddress as error:
        raise NoServer(str(error)) from error
    if address is None:
        raise NoServer("the admin side is off (admin.listen)")
    try:
        token = read_token(settings.admin) if address.path is None else None
        status, body = ask(address, method, path, token, timeout_s)
    except (OSError, http.client.HTTPException) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise NoServer(
            f"no server answers on {address}: {reason}. Start one with `modelserver serve`, or "
            "name the one that runs with --config or --admin-listen"
        ) from error
    if status in _REFUSALS:
        raise Refused(_message(body))
    if status != 200:
        raise NoServer(f"the server on {address} answered {status}: {_message(body)}")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise NoServer(f"{address} answered, but it is not a modelserver: {error}") from error


def ask(
    address: AdminAddress, method: str, path: str, token: str | None, timeout_s: float = _TIMEOUT_S
) -> tuple[int, bytes]:
    """Send one request; return status and body. Raises `OSError` or `http.client.HTTPException`."""
    connection: http.client.HTTPConnection
    if address.path is not None:
        connection = _UnixConnection(address.path, timeout_s)
    else:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _message(body: bytes) -> str:
    try:
        document: Any = json.loads(body)
        return printable(str(document["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        return printable(body[:200].decode(errors="replace"))


def printable(text: str) -> str:
    """Return the text without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
        pid, owner, _ = struct.unpack(
            "3i", self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
        if os.getuid() not in (0, owner) and owner != 0:
            self.close()
            raise PermissionError(
                errno.EPERM, f"process {pid} of another user ({owner}) answers there"
            )
