"""Check whether a running server can transcribe now, in as little memory and time as possible.

A health check runs every few seconds, inside the server's own memory limit: nothing but the
standard library is imported here, and little of that. `modelserver ready` begins with it.
"""

import os
import socket
import sys

_FLAGS = ("--host", "--port", "--timeout", "--config")
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - asked, not bound
_SYSTEM_FILE = "/etc/modelserver.toml"


class NotReady(Exception):
    """The server is not ready or does not answer: the text says why."""


def main(arguments: list[str]) -> int | None:
    """Exit status of `modelserver ready ARGUMENTS`; None for arguments that need the whole command
    line (`--help`, mistakes)."""
    given = _parsed(arguments)
    if given is None:
        return None
    try:
        settings = _settings(given)
        timeout_s = float(given.get("--timeout", "4"))
        port = int(str(settings["port"]))
    except (OSError, ValueError):
        return None  # to be told properly
    try:
        print(ask(str(settings["host"]), port, timeout_s))  # noqa: T201 - the command's output
    except NotReady as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def ask(host: str, port: int, timeout_s: float) -> str:
    """Return a sentence about a server that is ready. Raises `NotReady`."""
    address = _EVERY_ADDRESS.get(host, host)
    server = authority(host, port)
    url = f"http://{server}/readyz"
    request = f"GET /readyz HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n"
    answer = b""
    try:
        with socket.create_connection((address, port), timeout_s) as connection:
            connection.sendall(request.encode())
            while block := connection.recv(65536):
                answer += block
    except OSError as error:
        reason = "timed out" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise NotReady(f"no server answers at {url}: {reason}") from error
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    import json

    try:
        document = json.loads(body)
        if status == [b"200"]:
            return f"ready: {document['model']}, workers: {document['workers']}"
        raise NotReady(str(document["error"]["message"]))
    except (ValueError, KeyError, TypeError) as error:
        said = b" ".join(status).decode("latin-1") or "nothing that is HTTP"
        raise NotReady(f"{url} answered, but it is not a modelserver: {said}") from error


def authority(host: str, port: int) -> str:
    """Return host and port as a URL has them, for a client on the server's machine."""
    address = _EVERY_ADDRESS.get(host, host)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _parsed(arguments: list[str]) -> dict[str, str] | None:
    given: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name not in _FLAGS or (not equals and not rest):
            return None
        given[name] = value if equals else rest.pop(0)
    return given


def _settings(given: dict[str, str]) -> dict[str, object]:
    """Host and port, from where the server has them."""
    settings: dict[str, object] = {"host": "127.0.0.1", "port": 8091}
    file = given.get("--config") or os.environ.get("MODELSERVER_CONFIG")
    installed = os.path.join(sys.prefix, "share", "modelserver", "defaults.toml")  # noqa: PTH118
    files = [installed, file or _SYSTEM_FILE]
    for path in files:
        if path == file or os.access(path, os.R_OK):
            import tomllib

            with open(path, "rb") as opened:  # noqa: PTH123 - pathlib is not free
                table = tomllib.load(opened)
            settings |= {name: table[name] for name in settings if name in table}
    for name in settings:
        said = os.environ.get(f"MODELSERVER_{name.upper()}")
        if said is not None and "://" not in said:  # what Kubernetes says of a service
            settings[name] = said
        settings[name] = given.get(f"--{name}", settings[name])
    return settings
