"""A channel: one `AF_UNIX` sequenced-packet socket that carries messages and descriptors.

A packet is a byte that tells whether its message continues in the next one, and a part of the
message: the kernel bounds a packet by the socket's buffer. The descriptors of a message travel with
its first packet. End-of-file tells either side that the other is gone.

`Channel` is the blocking side, of the fork server and of the workers; the supervisor's is in
`supervisor.wire.async_channel`.
"""

import array
import contextlib
import os
import select
import socket
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from supervisor.wire.messages import Message, ProtocolError, decode, encode, to_worker

PACKET_BYTES = 64 * 1024
"""Bytes of a message in one packet."""

LONGEST_BYTES = 32 * 1024 * 1024
"""Bytes of a message to a worker or fork server, at most."""

LONGEST_ANSWER_BYTES = 8 * 1024 * 1024
"""Bytes of a message from a worker or fork server, at most."""

_LAST, _MORE = b"\0", b"\1"
_MAX_FDS = 4
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
_TRUNCATED = int(socket.MSG_CTRUNC)

M = TypeVar("M")


class ChannelClosed(Exception):
    """End of the channel: the other side is gone, or closed its end."""


class MessageTooLong(ValueError):
    """Message that is longer than the other side accepts."""


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected ends, both close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def encoded(message: Message, decoder: "msgspec.msgpack.Decoder[Any]" = to_worker) -> bytes:
    """Encode a message to a worker, and make sure that its `decoder` can read it.

    Raises `TypeError`, `ValueError`, `OverflowError` or `RecursionError` for types that MessagePack
    cannot carry, and `MessageTooLong`.
    """
    body = encode(message)
    if len(body) > LONGEST_BYTES:
        raise MessageTooLong(f"message of {len(body)} bytes; {LONGEST_BYTES} are allowed")
    decoder.decode(body)  # too deep nesting can be encoded and not decoded
    return body


def packets(body: bytes) -> Iterator[bytes]:
    """Cut a message into packets."""
    if len(body) <= PACKET_BYTES:
        yield _LAST + body
        return
    for at in range(0, len(body), PACKET_BYTES):
        more = at + PACKET_BYTES < len(body)
        yield (_MORE if more else _LAST) + body[at : at + PACKET_BYTES]


class Inbox(Generic[M]):
    """Reader of the messages of one direction. It holds the beginning of one whose rest has not
    arrived, at most `longest` bytes."""

    def __init__(
        self, sock: socket.socket, decoder: "msgspec.msgpack.Decoder[M]", longest: int
    ) -> None:
        self._socket = sock
        self._decoder = decoder
        self._longest = longest
        self._begun = bytearray()
        self._fds: list[int] = []
        self.taken_bytes = 0
        """Bytes read so far, of all messages."""

    def take(self) -> tuple[M, list[int]] | None:
        """Read one packet; return the message that it completes, with its descriptors, or None.

        Raises `ChannelClosed` at end-of-file, `BlockingIOError` if there is no packet, and
        `ProtocolError` for anything else that is not a packet of a message; its descriptors are
        closed then.
        """
        packet, fds = self._packet()
        self.taken_bytes += len(packet)
        self._fds += fds
        try:
            if fds and self._begun:
                raise ProtocolError("descriptors amid a message")
            if len(self._begun) + len(packet) > self._longest:
                raise ProtocolError(f"a message of more than {self._longest} bytes")
            if packet[:1] == _MORE and len(packet) == 1 + PACKET_BYTES:
                self._begun += packet[1:]
                return None
            if packet[:1] != _LAST:
                raise ProtocolError("not a packet of a message")
            body = packet[1:]
            if self._begun:
                body, self._begun = bytes(self._begun + body), bytearray()
            message = decode(self._decoder, body, len(self._fds))
        except BaseException:
            self.close()
            raise
        complete, self._fds = self._fds, []
        return message, complete

    def close(self) -> None:
        """Drop the beginning of a message, and close its descriptors."""
        close_fds(self._fds)
        self._fds, self._begun = [], bytearray()

    def _packet(self) -> tuple[bytes, list[int]]:
        while True:
            try:
                packet, ancillary, flags, _ = self._socket.recvmsg(
                    PACKET_BYTES + 1, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionResetError:
                # The peer died with unread messages of ours; what it sent before is still to be
                # read.
                continue
            break
        fds: list[int] = []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(data[: len(data) - len(data) % received.itemsize])
                fds.extend(received)
        if flags & _TRUNCATED:
            close_fds(fds)
            raise ProtocolError("more descriptors than were expected, or than are free")
        if not packet:
            close_fds(fds)
            raise ChannelClosed("end of file")
        return packet, fds


class Channel(Generic[M]):
    """Blocking end of a channel, for a process that does one thing at a time; `M`: the type that it
    receives."""

    def __init__(
        self,
        sock: socket.socket,
        decoder: "msgspec.msgpack.Decoder[M]",
        longest: int = LONGEST_BYTES,
    ) -> None:
        sock.setblocking(True)
        self._socket = sock
        self._inbox = Inbox(sock, decoder, longest)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send, waiting for room. Raises `ChannelClosed`, and what `encode` raises."""
        for packet in packets(encode(message)):
            try:
                socket.send_fds(self._socket, [packet], fds)
            except (BrokenPipeError, ConnectionResetError) as error:
                raise ChannelClosed(str(error)) from error
            fds = ()

    def receive(self, timeout_s: float | None) -> tuple[M, list[int]] | None:
        """Return the next message and its descriptors, or None after `timeout_s` (None: no limit).
        Once a message has begun to arrive, wait for its end.

        Raises `ChannelClosed` at end-of-file.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(None if timeout_s is None else timeout_s * 1000):
            return None
        while (received := self._inbox.take()) is None:
            pass
        return received

    def close(self) -> None:
        """Close this end; the other side reads end-of-file."""
        self._inbox.close()
        self._socket.close()


def close_fds(fds: Sequence[int]) -> None:
    """Close all descriptors."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
