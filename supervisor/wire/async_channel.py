"""The supervisor's end of a channel, on an event loop: callbacks in, messages out, nothing
blocks."""

import asyncio
import errno
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from supervisor.log import get_logger
from supervisor.wire.channel import LONGEST_ANSWER_BYTES, ChannelClosed, Inbox, close_fds, packets
from supervisor.wire.messages import Message, ProtocolError, encode

log = get_logger("supervisor")

MOST_AT_ONCE = 32
"""Packets that are read in one turn of the loop, before other events are handled."""
_MOST_BYTES, _MOST_S = 256 * 1024, 0.004
"""Bytes that are read, and seconds that are spent on them, in one turn."""
_BUSY_SHARE, _BUSY_SPAN_S = 0.4, 1.0
"""Share of the loop's processor time that one peer's messages may take in a second; past it, the
peer waits."""
_NO_DESCRIPTORS_PAUSE_S = 0.05
_MOST_UNSENT_BYTES = 64 * 1024 * 1024

M = TypeVar("M")


class AsyncChannel(Generic[M]):
    """End of a channel on the event loop: callbacks in, messages out, nothing blocks.

    `on_message` gets each message with its descriptors, which it then owns. `on_close` is called
    once, after the last message, unless `close` was called first: with None at end-of-file, or else
    with the reason why the channel cannot be used any more. That may be the peer's fault
    (`ProtocolError`: it sent what it may not, or too much), the kernel's (`OSError`), or an
    exception of `on_message`.
    """

    def __init__(
        self,
        sock: socket.socket,
        decoder: "msgspec.msgpack.Decoder[M]",
        on_message: Callable[[M, list[int]], None],
        on_close: Callable[[Exception | None], None],
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._inbox = Inbox(sock, decoder, LONGEST_ANSWER_BYTES)
        self._on_message = on_message
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._open = True
        self._busy_since, self._busy_s = time.monotonic(), 0.0
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send now, or as soon as there is room. A closed channel drops the message: `on_close` has
        reported that. Raises `OSError` if the kernel refuses it."""
        self.send_encoded(encode(message), fds)

    def send_encoded(self, body: bytes, fds: Sequence[int] = ()) -> None:
        """Send a message that `encoded` has made."""
        if not self._open:
            return
        if self._unsent and sum(len(packet) for packet, _ in self._unsent) > _MOST_UNSENT_BYTES:
            raise OSError(errno.ENOBUFS, "its peer does not read")
        for packet in packets(body):
            # The caller may close its descriptors at once, so waiting packets have duplicates.
            if self._unsent or not self._try_send(packet, fds):
                self._unsent.append((packet, _duplicates(fds)))
            fds = ()
        if self._unsent:
            self._loop.add_writer(self._socket.fileno(), self._writable)

    def drain(self) -> None:
        """Read what is there and close: the peer is dead, and maybe not the only holder of its
        end."""
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
        self._inbox.close()
        self._socket.close()

    def _try_send(self, packet: bytes, fds: Sequence[int]) -> bool:
        try:
            socket.send_fds(self._socket, [packet], fds)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            pass  # the reader sees the end-of-file and reports it
        return True

    def _writable(self) -> None:
        while self._unsent:
            packet, fds = self._unsent[0]
            try:
                if not self._try_send(packet, fds):
                    return
            except OSError as error:
                self._fail(error)
                return
            close_fds(fds)
            self._unsent.popleft()
        self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        until, most = time.monotonic() + _MOST_S, self._inbox.taken_bytes + _MOST_BYTES
        began = time.thread_time()
        for _ in range(MOST_AT_ONCE):
            if not self._open or self._inbox.taken_bytes > most or time.monotonic() > until:
                break
            if not _descriptor_free():
                # A message read now would lose its descriptors; in the socket it is safe.
                self._pause(_NO_DESCRIPTORS_PAUSE_S)
                return
            if not self._take_one():
                break
        self._spent(time.thread_time() - began)

    def _spent(self, seconds: float) -> None:
        """Count the time spent on the peer, and pause it if it sends without end, so that the loop
        serves the others."""
        now = time.monotonic()
        if now - self._busy_since > _BUSY_SPAN_S:
            self._busy_since, self._busy_s = now, 0.0
        self._busy_s += seconds
        if self._open and self._busy_s > _BUSY_SHARE * _BUSY_SPAN_S:
            self._pause(self._busy_since + _BUSY_SPAN_S - now)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._loop.call_later(seconds, self._read_again)

    def _read_again(self) -> None:
        if self._open:
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def _take_one(self) -> bool:
        """Read one packet; return False if there is none now, or never will be."""
        try:
            received = self._inbox.take()
            if received is not None:
                self._on_message(*received)
        except BlockingIOError:
            return False
        except ChannelClosed:
            self._fail(None)
        except ProtocolError as error:
            self._fail(error)
        except Exception as error:
            log.critical("channel.message_failed", exc_info=True)
            self._fail(error)
        return self._open

    def _fail(self, reason: Exception | None) -> None:
        self.close()
        self._on_close(reason)


def _descriptor_free() -> bool:
    try:
        os.close(os.dup(0))
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE)
    return True


def _duplicates(fds: Sequence[int]) -> list[int]:
    """Duplicate all descriptors, or none. Raises `OSError`."""
    found: list[int] = []
    try:
        for fd in fds:
            found.append(os.dup(fd))  # noqa: PERF401 - what was made is closed where one fails
    except OSError:
        close_fds(found)
        raise
    return found
