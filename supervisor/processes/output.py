"""What a worker writes to its standard output and error: a pipe of its own, since a descriptor that
it shares with the supervisor is one that it can truncate or block."""

import contextlib
import os

_LAST_BYTES = 4096
_PIPE_BYTES = 64 * 1024


class WorkerOutput:
    """The pipe, whose writing end goes to the worker."""

    def __init__(self) -> None:
        """Raises `OSError`."""
        self._reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def take(self) -> str:
        """Read what is there, and return the end of it. A worker that writes faster than it is read
        loses the rest."""
        with contextlib.suppress(OSError):
            return os.read(self._reader, _PIPE_BYTES)[-_LAST_BYTES:].decode("utf-8", "replace")
        return ""

    def close_writer(self) -> None:
        """Close this process's copy of the writing end."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close(self) -> None:
        """Close both ends."""
        self.close_writer()
        os.close(self._reader)
