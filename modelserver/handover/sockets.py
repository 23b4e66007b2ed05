"""Sockets on which this process listens, by purpose; some of them are older than the process.

They come from a unit of systemd (`modelserver.socket`), which decides where to listen, whatever the
settings say; or from the process before this one, through systemd's store or an upgrade: those are
used if the settings still want them. Source of the first two: sd_listen_fds(3), systemd.service(5)
on `FileDescriptorStoreMax`.
"""

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field

import structlog

from modelserver.http.listening import bind

log: structlog.stdlib.BoundLogger = structlog.get_logger("server")

HTTP, VOSK, ADMIN, AGENT, WYOMING = "http", "vosk", "admin", "agent", "wyoming"
NAMES = (HTTP, VOSK, ADMIN, AGENT, WYOMING)
_STORED, _CONNECTION = "stored-", "connection-"
"""Prefixes of the names of sockets that a modelserver has put into systemd's store."""
_FIRST = 3
"""Descriptor that systemd passes (SD_LISTEN_FDS_START)."""


@dataclass
class Inherited:
    """Sockets that were there before this process."""

    from_unit: dict[str, socket.socket] = field(default_factory=dict)
    more: list[tuple[str, socket.socket]] = field(default_factory=list)
    """Further sockets that a unit has given under names already in use."""
    unnamed: list[socket.socket] = field(default_factory=list)
    """Sockets that a unit has given under names that mean nothing here."""
    listening: dict[str, socket.socket] = field(default_factory=dict)
    connections: list[tuple[str, socket.socket]] = field(default_factory=list)
    """Connections that wait for their next request, with the names of the sockets that accepted
    them."""
    stored: set[str] = field(default_factory=set)
    """The names under which systemd's store has them."""

    def take(self, name: str, sock: socket.socket) -> None:
        """Add a socket under the name that it was given on."""
        kind = sock.type & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        if kind != socket.SOCK_STREAM:
            log.warning("socket.ignored", name=name, reason="not a stream socket")
            sock.close()
            return
        sock.setblocking(False)
        if name.startswith((_STORED, _CONNECTION)):
            self.stored.add(name)
        if name.startswith(_CONNECTION):
            self.connections.append((name.removeprefix(_CONNECTION), sock))
        elif name.startswith(_STORED):
            self.listening[name.removeprefix(_STORED)] = sock
        elif name in self.from_unit:
            self.more.append((name, sock))
        elif name in NAMES:
            self.from_unit[name] = sock
        else:
            self.unnamed.append(sock)

    @classmethod
    def from_systemd(cls, environment: MutableMapping[str, str]) -> "Inherited":
        """Return the sockets that systemd has passed. Removes the variables, which are not meant
        for child processes."""
        pid = environment.pop("LISTEN_PID", "")
        count = environment.pop("LISTEN_FDS", "")
        names = environment.pop("LISTEN_FDNAMES", "").split(":")
        found = cls()
        if pid != str(os.getpid()) or not count.isdigit():
            return found
        for number in range(int(count)):
            descriptor = _FIRST + number
            os.set_inheritable(descriptor, False)
            try:
                sock = socket.socket(fileno=descriptor)
            except OSError as error:
                log.warning("socket.ignored", descriptor=descriptor, reason=error.strerror)
                continue
            found.take(names[number] if number < len(names) else "", sock)
        return found


def stored_name(name: str) -> str:
    """Return the name under which a listening socket is stored."""
    return _STORED + name


def connection_name(name: str) -> str:
    """Return the name under which a connection is stored that the socket `name` accepted."""
    return _CONNECTION + name


class Sockets:
    """Use `listen` for each that is wanted, then `close_unused`."""

    def __init__(self, inherited: Inherited) -> None:
        self._inherited = inherited
        self._held: dict[str, socket.socket] = {}
        self._of_unit: set[str] = set()
        self.waited_for: set[str] = set()
        """Names of those that were there before this process: their clients may be waiting."""
        self.outlive = bool(inherited.from_unit or inherited.unnamed)
        """True if the sockets stay open when this process ends: a unit or systemd's store keeps
        them."""

    @property
    def connections(self) -> list[tuple[str, socket.socket]]:
        """Inherited connections (see `Inherited`)."""
        return self._inherited.connections

    @property
    def stored(self) -> set[str]:
        """Names of sockets in systemd's store (see `Inherited`)."""
        return self._inherited.stored

    def listen(self, name: str, host: str, port: int) -> socket.socket:
        """Return a listening socket at an address: an inherited one, or a new one. Raises
        `OSError`."""
        sock = self._from_unit(name, port)
        if sock is not None:
            at = sock.getsockname()
            log.info("socket.received", name=name, address=str(at))
            self._of_unit.add(name)
        else:
            sock = self._stored(name, host, port)
        if sock is not None:
            self.waited_for.add(name)
        else:
            sock = bind(host, port)
        # aiohttp's server closes the one that it is given.
        self._held[name] = sock.dup()
        return sock

    def more(self, name: str) -> list[socket.socket]:
        """Return the other sockets that a unit has opened under that name, after `listen`: of the
        other family, or on another address."""
        found = [sock for given, sock in self._inherited.more if given == name]
        if name in self._of_unit and (port := _port_of(self._held[name])):
            others = [sock for sock in self._inherited.unnamed if _port_of(sock) == port]
            self._inherited.unnamed = [s for s in self._inherited.unnamed if s not in others]
            found += others
        self._inherited.more = [one for one in self._inherited.more if one[0] != name]
        for sock in found:
            log.info("socket.received", name=name, address=str(sock.getsockname()))
        return found

    def _from_unit(self, name: str, port: int) -> socket.socket | None:
        """Return the socket that the unit gave under `name`; or for that port; or, for the public
        side, any that is left."""
        found = self._inherited.from_unit.pop(name, None)
        if found is not None:
            return found
        unnamed = self._inherited.unnamed
        fitting = [sock for sock in unnamed if _port_of(sock) == port]
        if not fitting and name == HTTP:
            fitting = unnamed[:1]
        for sock in fitting[:1]:
            unnamed.remove(sock)
        return fitting[0] if fitting else None

    def _stored(self, name: str, host: str, port: int) -> socket.socket | None:
        sock = self._inherited.listening.pop(name, None)
        if sock is not None and not _is_at(sock, host, port):
            sock.close()  # the settings have changed
            return None
        return sock

    def close_unused(self) -> None:
        """Close the sockets that nothing has asked for."""
        left = [*self._inherited.unnamed, *(sock for _, sock in self._inherited.more)]
        for sock in left:
            log.warning("socket.ignored", address=str(sock.getsockname()))
        for sock in (
            *left,
            *self._inherited.from_unit.values(),
            *self._inherited.listening.values(),
        ):
            sock.close()

    def held(self) -> Iterable[tuple[str, socket.socket]]:
        """Return all sockets that this process listens on."""
        return self._held.items()

    def held_by_us(self) -> Iterable[tuple[str, socket.socket]]:
        """Return the sockets that no unit has opened."""
        return [(name, sock) for name, sock in self._held.items() if name not in self._of_unit]

    def close(self) -> None:
        """Close the sockets in this process."""
        for sock in self._held.values():
            sock.close()
        self._held.clear()


def _port_of(sock: socket.socket) -> int:
    return 0 if sock.family is socket.AF_UNIX else int(sock.getsockname()[1])


def _is_at(sock: socket.socket, host: str, port: int) -> bool:
    """Return whether the socket has the wanted address; 0 stands for any port."""
    if sock.family is socket.AF_UNIX:
        return False
    at = sock.getsockname()
    return port in (0, at[1]) and at[0] in _addresses(host)


def _addresses(host: str) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for found in socket.getaddrinfo(
            host or None, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            yield str(found[4][0])
