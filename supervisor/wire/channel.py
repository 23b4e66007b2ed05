"""A channel: one `AF_UNIX` sequenced-packet socket that carries messages and descriptors.

This is the side of the fork server and of the workers, which blocks; the supervisor's is in
`supervisor.wire.async_channel`. End-of-file tells either side that the other is gone.
"""

import array
import contextlib
import os
import select
import socket
from collections.abc import Sequence

import msgspec

from supervisor.wire.messages import AnyMessage, Message, decode, encode

INLINE_BYTES = 64 * 1024
"""A longer message travels in a memfd: the kernel bounds a packet by the socket's buffer."""

LONGEST_BYTES = 32 * 1024 * 1024
"""What either side takes at the most from the other: decoding it holds up the event loop."""

_INLINE, _IN_MEMFD = b"\0", b"\1"
_MAX_FDS = 4
_TRUNCATED = int(socket.MSG_CTRUNC)


class ChannelClosed(Exception):
    """The other side is gone, or closed its end."""


class MessageTooLong(ValueError):
    """It is longer than the other side would take."""


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, both close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def encoded(message: Message) -> bytes:
    """The body of a packet, of which it is known that the other side can read it.

    Raises `TypeError`, `ValueError`, `OverflowError` or `RecursionError` for what MessagePack
    cannot carry, and `MessageTooLong`.
    """
    body = encode(message)
    if len(body) > LONGEST_BYTES:
        raise MessageTooLong(f"message of {len(body)} bytes; {LONGEST_BYTES} are allowed")
    decode(body)  # what is nested too deep can be written and not read
    return body


def pack(body: bytes, fds: Sequence[int]) -> tuple[bytes, list[int], int | None]:
    """The packet, the descriptors that go with it, and one of them to close afterwards. Raises
    `OSError`."""
    if len(body) <= INLINE_BYTES:
        return _INLINE + body, list(fds), None
    memfd = os.memfd_create("message", os.MFD_CLOEXEC)
    view = memoryview(body)
    while view:
        view = view[os.write(memfd, view) :]
    return _IN_MEMFD, [*fds, memfd], memfd


def _unpack(packet: bytes, fds: list[int]) -> tuple[AnyMessage, list[int]]:
    try:
        if packet[:1] == _INLINE:
            return decode(packet[1:]), fds
        memfd = fds.pop()
        try:
            size = os.fstat(memfd).st_size
            if size > LONGEST_BYTES:
                raise ChannelClosed(f"message of {size} bytes; {LONGEST_BYTES} are allowed")
            return decode(os.pread(memfd, size, 0)), fds
        finally:
            os.close(memfd)
    except (msgspec.DecodeError, IndexError, RecursionError) as error:
        # Only a process that has lost its mind sends this: to us it is gone.
        close_fds(fds)
        raise ChannelClosed(f"not a message: {error}") from error


def receive(sock: socket.socket) -> tuple[AnyMessage, list[int]]:
    """One message. Raises `ChannelClosed` at end-of-file, `BlockingIOError` if there is none."""
    while True:
        try:
            packet, ancillary, flags, _ = sock.recvmsg(
                INLINE_BYTES + 1,
                socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize),
                socket.MSG_CMSG_CLOEXEC,
            )
        except ConnectionResetError:
            # It died with something of ours unread; what it sent before is still to be had.
            continue
        break
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received = array.array("i")
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
            fds.extend(received)
    if not packet:
        raise ChannelClosed("end of file")
    if flags & _TRUNCATED:
        close_fds(fds)
        raise ChannelClosed("there was no descriptor free for what came with a message")
    return _unpack(packet, fds)


class Channel:
    """The blocking side, for a process that does one thing at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._socket = sock

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send, waiting for room. Raises `ChannelClosed`, and what `encoded` raises."""
        packet, all_fds, own = pack(encoded(message), fds)
        try:
            socket.send_fds(self._socket, [packet], all_fds)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosed(str(error)) from error
        finally:
            if own is not None:
                os.close(own)

    def receive(self, timeout_s: float | None) -> tuple[AnyMessage, list[int]] | None:
        """The next message and its descriptors, or None after `timeout_s` (None: no limit).

        Raises `ChannelClosed` at end-of-file.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(None if timeout_s is None else timeout_s * 1000):
            return None
        return receive(self._socket)

    def close(self) -> None:
        self._socket.close()


def close_fds(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
