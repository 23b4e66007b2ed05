"""Standard output and error of a worker: a pipe of its own, since it could truncate or block a
descriptor that it shares with the supervisor."""

import contextlib
import os

_LAST_BYTES = 4096
_PIPE_BYTES = 64 * 1024


class WorkerOutput:
    """Pipe whose writing end goes to the worker."""

    def __init__(self) -> None:
        """Open the pipe. Raises `OSError`."""
        self._reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def take(self) -> str:
        """Read what is there, and return the end of it. If a worker writes faster than it is read,
        the rest is lost."""
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
