"""Messages between a server and the new process that replaces it, and the sockets that go with
them: a packet per message, on a pair of Unix sockets."""

import array
import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import msgspec

_MOST_BYTES = 64 * 1024
_MOST_SOCKETS = 64


class Held(msgspec.Struct, frozen=True, tag="held"):
    """First message to the new process: the purposes of the sockets that come with it, and how many
    bytes will be free once the old process has exited."""

    names: tuple[str, ...]
    bytes: int


class Connection(msgspec.Struct, frozen=True, tag="connection"):
    """Message to the new process with a connection, and the name of the socket that accepted it."""

    name: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Message from the new process: it serves."""


class MakeWay(msgspec.Struct, frozen=True, tag="make_way"):
    """Message from the new process: both do not fit into memory; it loads its model when the old
    one has exited."""

    needs_bytes: int
    left_bytes: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Message from the new process: it cannot serve, and exits."""

    reason: str


Message = Held | Connection | Ready | MakeWay | Failed
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Message)


class Ended(Exception):
    """The other side has gone."""


class Wire:
    """End of the pair of sockets."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock

    @classmethod
    def pair(cls) -> tuple["Wire", socket.socket]:
        """Return one end, and the other as a socket to be inherited."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    async def send(self, message: Message, sockets: Sequence[socket.socket] = ()) -> None:
        """Send a message with sockets. Raises `Ended`."""
        body = msgspec.json.encode(message)
        descriptors = array.array("i", [sock.fileno() for sock in sockets])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if sockets else []
        while True:
            try:
                self._socket.sendmsg([body], rights)
            except BlockingIOError:
                await asyncio.sleep(0.005)
            except OSError as error:
                raise Ended from error
            else:
                return

    async def receive(self) -> tuple[Message, list[socket.socket]]:
        """Wait for the next message, and return it with its sockets. Raises `Ended`."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._socket, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._socket)
        try:
            body, descriptors, _, _ = socket.recv_fds(
                self._socket, _MOST_BYTES, _MOST_SOCKETS, socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            raise Ended from error
        if not body:
            raise Ended
        return _decoder.decode(body), [socket.socket(fileno=fd) for fd in descriptors]

    def close(self) -> None:
        """Close this end, which the other side notices."""
        self._socket.close()
