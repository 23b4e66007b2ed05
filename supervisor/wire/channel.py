"""A channel: one `AF_UNIX` sequenced-packet socket that carries messages and descriptors.

`Channel` blocks and serves the fork server and the workers; `AsyncChannel` belongs to an event
loop and serves the supervisor. End-of-file tells either side that the other is gone.
"""

import array
import asyncio
import contextlib
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from supervisor.wire.messages import AnyMessage, Message, decode, encode

INLINE_BYTES = 64 * 1024
"""A longer message travels in a memfd: the kernel bounds a packet by the socket's buffer."""

LONGEST_BYTES = 256 * 1024 * 1024
"""What either side takes at the most from the other."""

_INLINE, _IN_MEMFD = b"\0", b"\1"
_MAX_FDS = 4


class ChannelClosed(Exception):
    """The other side is gone, or closed its end."""


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, both close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _pack(message: Message, fds: Sequence[int]) -> tuple[bytes, list[int], int | None]:
    """The packet, the descriptors that go with it, and one of them to close afterwards."""
    body = encode(message)
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
    except (msgspec.DecodeError, IndexError) as error:
        # Only a process that has lost its mind sends this: to us it is gone.
        _close_fds(fds)
        raise ChannelClosed(f"not a message: {error}") from error


def _receive(sock: socket.socket) -> tuple[AnyMessage, list[int]]:
    """One message. Raises `ChannelClosed` at end-of-file, `BlockingIOError` if there is none."""
    while True:
        try:
            packet, ancillary, _, _ = sock.recvmsg(
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
    return _unpack(packet, fds)


class Channel:
    """The blocking side, for a process that does one thing at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._socket = sock

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send, waiting for headroom. Raises `ChannelClosed`."""
        packet, all_fds, own = _pack(message, fds)
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
        return _receive(self._socket)

    def close(self) -> None:
        self._socket.close()


class AsyncChannel:
    """The event loop's side: callbacks in, messages out, nothing waits.

    `on_message` gets each message with its descriptors, which then belong to it; `on_close` is
    called once, after the last message, unless `close` was called first.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[AnyMessage, list[int]], None],
        on_close: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._on_message = on_message
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._open = True
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send now, or as soon as there is room. To a closed channel it is dropped:
        `on_close` is what tells, to everyone alike."""
        if not self._open:
            return
        packet, all_fds, own = _pack(message, fds)
        # The caller may close its descriptors at once; what waits holds duplicates.
        if self._unsent or not self._try_send(packet, all_fds):
            self._unsent.append((packet, [os.dup(fd) for fd in all_fds]))
            self._loop.add_writer(self._socket.fileno(), self._writable)
        if own is not None:
            os.close(own)

    def drain(self) -> None:
        """Take what is there and close: the other side is dead, and maybe not the only holder
        of its end."""
        self._readable()
        self.close()

    def close(self) -> None:
        """Close this end; the other side reads end-of-file. May be called twice."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        while self._unsent:
            _close_fds(self._unsent.popleft()[1])
        self._socket.close()

    def _try_send(self, packet: bytes, fds: list[int]) -> bool:
        try:
            socket.send_fds(self._socket, [packet], fds)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            pass  # the reader sees the end-of-file and says so
        return True

    def _writable(self) -> None:
        while self._unsent:
            packet, fds = self._unsent[0]
            if not self._try_send(packet, fds):
                return
            _close_fds(fds)
            self._unsent.popleft()
        self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        while self._open:
            try:
                message, fds = _receive(self._socket)
            except BlockingIOError:
                return
            except ChannelClosed:
                self.close()
                self._on_close()
                return
            self._on_message(message, fds)


def _close_fds(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
