"""Notifications to systemd about the state of the service: sd_notify(3), by its datagram protocol.

Outside of systemd nothing is sent.
"""

import asyncio
import contextlib
import os
import select
import socket

import structlog

from modelserver.serving.service import SpeechService
from modelserver.serving.verdict import in_a_line

log: structlog.stdlib.BoundLogger = structlog.get_logger("server")

_EVERY_S = 1.0
_EXTEND_BY_S = 30
"""Seconds by which systemd is asked to extend the start, again and again, while a model loads."""
_WATCHDOG_SHARE = 0.25
_LONGEST_FIELD = 800
_BUSY_S = 1.0


class Notifier:
    """Sender of notifications, one datagram a message. `socket_path`: the path that systemd has
    set; None outside of systemd."""

    def __init__(self, socket_path: str | None, watchdog_s: float | None) -> None:
        self.watchdog_s = watchdog_s
        self._socket: socket.socket | None = None
        if socket_path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            # "@" stands for the zero byte of an abstract address.
            self._socket.connect("\0" + socket_path[1:] if socket_path[0] == "@" else socket_path)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls) -> "Notifier":
        """Return the notifier that systemd has set for this process. Removes the variables, which
        are not meant for child processes."""
        path = os.environ.pop("NOTIFY_SOCKET", None)
        microseconds = os.environ.pop("WATCHDOG_USEC", "")
        pid = os.environ.pop("WATCHDOG_PID", str(os.getpid()))
        ours = microseconds.isdigit() and pid == str(os.getpid())
        return cls(path, int(microseconds) / 1e6 if ours else None)

    @property
    def listened_to(self) -> bool:
        """True if systemd receives the notifications."""
        return self._socket is not None

    def tell(self, **fields: str | int) -> None:
        """Send NAME=VALUE lines, such as READY=1."""
        if self._socket is None:
            return
        lines = "\n".join(f"{name}={_in_a_field(value)}" for name, value in fields.items())
        with contextlib.suppress(BlockingIOError, ConnectionError):  # systemd is busy, or gone
            self._socket.send(lines.encode(errors="replace"))

    def store(self, name: str, sock: socket.socket) -> bool:
        """Ask systemd to keep a socket under `name`, and to pass it to the service when it restarts
        (`FileDescriptorStoreMax`; without that, systemd closes it). Return False outside of
        systemd, or if sending failed."""
        if self._socket is None:
            return False
        self._socket.settimeout(_BUSY_S)  # it must not be lost where systemd is busy
        try:
            message = f"FDSTORE=1\nFDNAME={name}".encode()
            socket.send_fds(self._socket, [message], [sock.fileno()])
        except OSError as error:
            log.warning("systemd.fdstore_failed", name=name, reason=str(error))
            return False
        finally:
            self._socket.setblocking(False)
        return True

    def forget(self, name: str) -> None:
        """Have systemd drop what it keeps under that name."""
        self.tell(FDSTOREREMOVE=1, FDNAME=name)

    def wait_until_read(self, timeout_s: float) -> None:
        """Wait until systemd has read all notifications: it may not know the sender of one any more
        if that has exited (sd_notify_barrier(3))."""
        if self._socket is None:
            return
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            self._socket.settimeout(timeout_s)
            socket.send_fds(self._socket, [b"BARRIER=1"], [theirs])
            os.close(theirs)
            theirs = -1
            poll = select.poll()
            poll.register(ours, 0)
            poll.poll(timeout_s * 1000)
        except OSError:
            pass  # it has gone
        finally:
            self._socket.setblocking(False)
            os.close(ours)
            if theirs >= 0:
                os.close(theirs)

    def close(self) -> None:
        """Say no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _in_a_field(value: str | int) -> str:
    """Return one line, short enough that systemd does not ignore the message."""
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST_FIELD else f"{text[:_LONGEST_FIELD]}..."


async def keep_systemd_informed(service: SpeechService, notifier: Notifier) -> None:
    """Notify systemd, forever: READY when a worker is ready for the first time, STATUS in words,
    WATCHDOG while all is watched over, EXTEND_TIMEOUT while a model loads."""
    watchdog_s = notifier.watchdog_s
    every_s = min(_EVERY_S, watchdog_s * _WATCHDOG_SHARE) if watchdog_s else _EVERY_S
    ready, said = False, ""
    while notifier.listened_to:
        fields: dict[str, str | int] = {}
        if not ready and service.unready_reason() is None:
            ready, fields["READY"] = True, 1
        if not ready:
            fields["EXTEND_TIMEOUT_USEC"] = _EXTEND_BY_S * 1_000_000
        # This loop's turn is itself the proof that the event loop is not stuck.
        if watchdog_s and service.watched():
            fields["WATCHDOG"] = 1
        if (words := in_a_line(service)) != said:
            fields["STATUS"] = said = words
        if fields:
            notifier.tell(**fields)
        await asyncio.sleep(every_s)
