"""Forbidden calls of a worker: the kernel holds them and reports them here (seccomp_unotify(2),
linux/seccomp.h)."""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import select
import struct
from collections.abc import Callable
from pathlib import Path

from supervisor.wire.messages import ProtocolError

_RECEIVE = 0xC0502100
"""Request SECCOMP_IOCTL_NOTIF_RECV: _IOWR('!', 0, struct seccomp_notif)."""
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
"""Notification: id, pid, flags; number of the call, architecture, instruction, arguments."""

_PATHS = {"open": 0, "creat": 0, "unlink": 0, "rename": 0, "execve": 0, "openat": 1, "unlinkat": 1}
"""Index of the argument that is a path."""
_MOST_PATH_BYTES = 200


class ForbiddenCalls:
    """Reader of forbidden calls. It owns `listener`; `on_call` gets the name of each call, with the
    path if it has one. The call is not answered: its process waits until it is ended."""

    def __init__(self, listener: int, on_call: Callable[[str], None]) -> None:
        self._listener = listener
        self._on_call = on_call
        os.set_blocking(listener, False)
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        try:
            asyncio.get_running_loop().add_reader(listener, self._told)
        except OSError as error:  # an ordinary file, not a listener
            os.close(listener)
            raise ProtocolError(f"Ready with another descriptor: {error}") from error

    def _told(self) -> None:
        # Before Linux 6.11, receiving from a process that has ended would block forever.
        (_, events), *_ = self._poll.poll(0) or [(0, 0)]
        if not events & select.POLLIN:
            if events:
                self.close()  # its process has ended
            return
        told = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, told)
        except OSError:
            self._on_call("a forbidden system call and interrupted it")
            return
        _, pid, _, number, architecture, _, *arguments = _NOTIFICATION.unpack(told)
        name = _name(architecture, number)
        path = _path(pid, arguments[_PATHS[name]]) if name in _PATHS else ""
        self._on_call(f"{name} of {path!r}" if path else name)

    def close(self) -> None:
        """Close the listener. May be called twice."""
        if self._listener >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)
            os.close(self._listener)
            self._listener = -1


def _path(pid: int, address: int) -> str:
    """Return the path in the waiting process's memory at `address`; empty if it cannot be read."""
    # The address may be any number, and one at which nothing can be read.
    with contextlib.suppress(OSError, OverflowError, ValueError):
        with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
            found = os.pread(memory.fileno(), _MOST_PATH_BYTES, address)
        return found.split(b"\0", 1)[0].decode("utf-8", "replace")
    return ""


def _name(architecture: int, number: int) -> str:
    """Return the name of a system call, from the library that made the filter."""
    with contextlib.suppress(OSError, AttributeError):
        resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_num_arch
        resolve.restype = ctypes.c_void_p
        if found := resolve(ctypes.c_uint32(architecture), ctypes.c_int(number)):
            return ctypes.string_at(found).decode("ascii")  # its few bytes are not freed
    return f"call {number}"
