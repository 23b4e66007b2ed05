"""Addresses of the admin side: a Unix socket, or an address of this machine with a token."""

import contextlib
import errno
import fcntl
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelserver.settings import AdminSettings, xdg_directory

AUTO, OFF = "auto", "off"
_UNIX = "unix:"
_SOCKET_NAME = "admin.sock"
_PROBE_S = 1.0


class BadAddress(Exception):
    """The setting is not an address; the text says what is."""


@dataclass(frozen=True, slots=True)
class AdminAddress:
    """A Unix socket's path, or host and port."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"{_UNIX}{self.path}" if self.path else f"http://{self.host}:{self.port}"


def admin_address(settings: AdminSettings) -> AdminAddress | None:
    """Return the address of the admin side that these settings give; None if it is off. Raises
    `BadAddress`."""
    text = settings.listen
    if text == OFF:
        return None
    if text == AUTO:
        return AdminAddress(path=runtime_directory() / _SOCKET_NAME)
    if text.startswith(_UNIX):
        return AdminAddress(path=Path(text.removeprefix(_UNIX)))
    if (address := host_and_port(text)) is None:
        raise BadAddress(
            f'admin.listen is {text!r}; allowed: "auto", "off", "unix:/path" or "host:port"'
        )
    return address


def host_and_port(text: str) -> AdminAddress | None:
    """Return the address in "host:port" or "[::1]:port"; None for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        return None
    return AdminAddress(host=host.strip("[]"), port=int(port))


def must_be_usable(settings: AdminSettings) -> None:
    """Raise `BadAddress` if the address is not valid, or reachable from other machines without a
    token."""
    address = admin_address(settings)
    over_tcp = address is not None and address.path is None
    if over_tcp and not settings.token_file:
        raise BadAddress(
            f"admin.listen is {settings.listen}, which other users can reach: it needs a token: "
            "name a file that holds one in admin.token_file"
        )


def runtime_directory() -> Path:
    """Return the directory of running servers' sockets: the one that systemd made, the user's own,
    or /run for root."""
    if directory := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(directory.split(":")[0])
    if "XDG_RUNTIME_DIR" in os.environ:
        return xdg_directory("XDG_RUNTIME_DIR", "")
    if os.getuid() == 0:
        return Path("/run/modelserver")
    return Path(tempfile.gettempdir()) / f"modelserver-{os.getuid()}"


def bind_unix(path: Path, *, in_place_of: bool = False) -> socket.socket:
    """Bind a listening socket that only this user may connect to. Raises `OSError`.

    A socket that a dead server left is replaced. With `in_place_of`, another server may still
    answer on `path`: the new socket then waits beside it until `take_path` is called."""
    if path.parent == runtime_directory():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.stat().st_uid != os.getuid() and os.getuid() != 0:
        raise PermissionError(errno.EPERM, f"{path.parent} belongs to another user")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Two that begin at the same moment take turns, and no client sees a socket that does not
        # listen yet.
        with _locked(path.parent):
            if path.is_socket() and not in_place_of and _answers(path):
                raise OSError(
                    errno.EADDRINUSE,
                    "another server listens there; to have an admin side of its own, this one "
                    "needs another admin.listen, such as unix:/path or off",
                )
            before = beside(path)
            before.unlink(missing_ok=True)
            old = os.umask(0o177)
            try:
                sock.bind(str(before))
                sock.listen()
            finally:
                os.umask(old)
            if not in_place_of:
                before.rename(path)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def beside(path: Path) -> Path:
    """Return where this process binds a socket until it takes `path`."""
    return path.with_name(f".{path.name}-{os.getpid()}")


def take_path(path: Path) -> None:
    """Move the socket that was bound `in_place_of` another server's to `path`. Raises `OSError`."""
    with _locked(path.parent):
        beside(path).rename(path)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    lock = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(str(path))
        except (TimeoutError, BlockingIOError):
            return True  # it is there, and has no time
        except OSError:
            return False
        return True


def read_token(settings: AdminSettings) -> str | None:
    """Return the token; None where no file is named or it is empty. Raises `OSError`."""
    if not settings.token_file:
        return None
    return Path(settings.token_file).expanduser().read_text(encoding="utf-8").strip() or None
