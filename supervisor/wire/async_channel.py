"""The end of a channel on an event loop: callbacks in, messages out, and nothing waits."""

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from supervisor.wire.channel import ChannelClosed, close_fds, pack, receive
from supervisor.wire.messages import AnyMessage, Message, encode

log: structlog.stdlib.BoundLogger = structlog.get_logger("supervisor")

MOST_AT_ONCE = 32
"""Messages that are taken in one turn of the loop; whatever else there is comes in between."""
_NO_DESCRIPTORS_PAUSE_S = 0.05


class AsyncChannel:
    """The event loop's side: callbacks in, messages out, nothing waits.

    `on_message` gets each message with its descriptors, which then belong to it; `on_close` is
    called once, after the last message, unless `close` was called first. What `on_message` raises
    is logged: the messages behind it, and the end, are still to be told.
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
        """Send now, or as soon as there is room. To a closed channel it is dropped: `on_close` is
        what tells, to everyone alike. Raises `OSError` where the kernel will not carry it."""
        self.send_encoded(encode(message), fds)

    def send_encoded(self, body: bytes, fds: Sequence[int] = ()) -> None:
        """The same for what `encoded` has made."""
        if not self._open:
            return
        packet, all_fds, own = pack(body, fds)
        try:
            # The caller may close its descriptors at once; what waits holds duplicates.
            if self._unsent or not self._try_send(packet, all_fds):
                self._unsent.append((packet, _duplicates(all_fds)))
                self._loop.add_writer(self._socket.fileno(), self._writable)
        finally:
            if own is not None:
                os.close(own)

    def drain(self) -> None:
        """Take what is there and close: the other side is dead, and maybe not the only holder
        of its end."""
        while self._open and self._take_one():
            pass
        self.close()

    def close(self) -> None:
        """Close this end; the other side reads end-of-file. May be called twice."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        while self._unsent:
            close_fds(self._unsent.popleft()[1])
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
            try:
                if not self._try_send(packet, fds):
                    return
            except OSError:
                log.exception("channel.not_sent")
                self.close()
                self._on_close()
                return
            close_fds(fds)
            self._unsent.popleft()
        self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        for _ in range(MOST_AT_ONCE):
            if not self._open:
                return
            if not _descriptor_free():
                # A message read now would lose what comes with it; in the socket it keeps.
                self._loop.remove_reader(self._socket.fileno())
                self._loop.call_later(_NO_DESCRIPTORS_PAUSE_S, self._read_again)
                return
            if not self._take_one():
                return

    def _read_again(self) -> None:
        if self._open:
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def _take_one(self) -> bool:
        """One message; False if there is none now, or never will be."""
        try:
            message, fds = receive(self._socket)
        except BlockingIOError:
            return False
        except ChannelClosed:
            self.close()
            self._on_close()
            return False
        try:
            self._on_message(message, fds)
        except Exception:
            log.critical("channel.message_failed", message=type(message).__name__, exc_info=True)
        return True


def _descriptor_free() -> bool:
    try:
        os.close(os.dup(0))
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE)
    return True


def _duplicates(fds: Sequence[int]) -> list[int]:
    """Of all of them, or of none. Raises `OSError`."""
    found: list[int] = []
    try:
        for fd in fds:
            found.append(os.dup(fd))  # noqa: PERF401 - what was made is closed where one fails
    except OSError:
        close_fds(found)
        raise
    return found
