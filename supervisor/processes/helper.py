"""A helper: a process beside the pools whose work can wait, such as preparing a model.

The guard ends it before any worker, and how it ended is told as of every other process.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

from supervisor.deaths.death import Death, ExitStatus, Intent
from supervisor.deaths.kernel_oom import OomEvidence
from supervisor.deaths.outcome import Outcome
from supervisor.process_control import kill_group

_LAST_WORDS_S = 1.0
_GROUP_EVERY_S = 0.25
_LAST_BYTES = 64 * 1024
"""Bytes of what it says that are remembered."""
_REMEMBERED_S = 10.0


class Helper:
    """Helper process, with its standard output and error piped to us; a `role` is for people."""

    def __init__(
        self, role: str, process: asyncio.subprocess.Process, evidence: OomEvidence
    ) -> None:
        self.role = role
        self.pid = process.pid
        self.outcome = Outcome(role, process.pid, evidence)
        self._below: dict[int, float] = {}
        """The pids that were seen below it, and when last."""
        self.said = ""
        """What it wrote to standard error, once it has ended."""
        self._death: Death | None = None
        self._over = False
        self._process = process
        assert process.stderr is not None
        self._errors = asyncio.create_task(_last_of(process.stderr))

    @classmethod
    async def start(
        cls,
        role: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        evidence: OomEvidence,
    ) -> "Helper":
        """Exec it. Raises `OSError`."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,  # what it starts can be ended with it
        )
        return cls(role, process, evidence)

    def seen_below(self, now: float, pids: Collection[int]) -> None:
        """Take note of what was seen below it. An old number may be another's by now."""
        self._below |= dict.fromkeys(pids, now)
        self._below = {p: seen for p, seen in self._below.items() if now - seen < _REMEMBERED_S}

    def is_above(self, pid: int) -> bool:
        """Tell whether it is that process, or that one was seen below it."""
        return pid == self.pid or pid in self._below

    async def lines(self) -> AsyncIterator[bytes]:
        """Iterate over what it writes to standard output, until it has ended; of a long line, the
        beginning."""
        assert self._process.stdout is not None
        unread = b""
        while block := await self._process.stdout.read(_LAST_BYTES):
            *lines, unread = (unread + block).split(b"\n")
            unread = unread[:_LAST_BYTES]
            for line in lines:
                yield line
        if unread:
            yield unread

    def kill(self, intent: Intent, reason: str = "") -> None:
        """SIGKILL, remembering why."""
        self.outcome.force(intent, reason)
        kill_group(self.pid)

    async def ended(self) -> Death | None:
        """Wait for its end; None if it did what it was for. What it has started ends with it."""
        waiting = asyncio.ensure_future(self._process.wait())
        try:
            while not (await asyncio.wait({waiting}, timeout=_GROUP_EVERY_S))[0]:
                if self._process.returncode is not None:
                    kill_group(self.pid)  # its pipes are still open: of its group some are left
        finally:
            waiting.cancel()
        status = waiting.result()
        if self._over:
            return self._death
        self._over = True
        # Somebody below it may hold the other end open for longer.
        done, _ = await asyncio.wait({self._errors}, timeout=_LAST_WORDS_S)
        self._errors.cancel()
        self.said = "".join(task.result().decode(errors="replace").strip() for task in done)
        if status != 0:
            how = ExitStatus(signal=-status) if status < 0 else ExitStatus(code=status)
            self._death = self.outcome.name(how, self._below)
        return self._death

    async def close(self) -> Death | None:
        """End it: it is not wanted any more. Returns what `ended` does."""
        if self._process.returncode is None:
            self.kill(Intent.SHUTDOWN)
        return await self.ended()


async def _last_of(stream: asyncio.StreamReader) -> bytes:
    """Read the end of a stream, however much there was."""
    last = b""
    while block := await stream.read(_LAST_BYTES):
        last = (last + block)[-_LAST_BYTES:]
    return last
