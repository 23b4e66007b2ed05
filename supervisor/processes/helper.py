"""A helper: a process beside the pools whose work can wait, such as preparing a model.

The guard ends it before any worker; its end is recorded like that of every other process.
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
"""Bytes of its standard error that are remembered."""
_REMEMBERED_S = 10.0


class Helper:
    """Helper process, with its standard output and error piped to us; `role` is its name for
    people."""

    def __init__(
        self, role: str, process: asyncio.subprocess.Process, evidence: OomEvidence
    ) -> None:
        self.role = role
        self.pid = process.pid
        self.outcome = Outcome(role, process.pid, evidence)
        self._below: dict[int, float] = {}
        """Pids that were seen below it, and when last."""
        self.said = ""
        """Text that it wrote to standard error, once it has ended."""
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
        """Start the process. Raises `OSError`."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,  # so that its children can be ended with it
        )
        return cls(role, process, evidence)

    def seen_below(self, now: float, pids: Collection[int]) -> None:
        """Record the pids that were seen below it. An old pid may belong to another process by
        now."""
        self._below |= dict.fromkeys(pids, now)
        self._below = {p: seen for p, seen in self._below.items() if now - seen < _REMEMBERED_S}

    def is_above(self, pid: int) -> bool:
        """Return whether `pid` is its own, or that of a process seen below it."""
        return pid == self.pid or pid in self._below

    async def lines(self) -> AsyncIterator[bytes]:
        """Iterate over the lines that it writes to standard output, until it has ended; long lines
        are cut."""
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
        """Send SIGKILL to its group, and remember why."""
        self.outcome.force(intent, reason)
        kill_group(self.pid)

    async def ended(self) -> Death | None:
        """Wait for its end; return None if it succeeded. Processes that it has started end with
        it."""
        waiting = asyncio.ensure_future(self._process.wait())
        try:
            while not (await asyncio.wait({waiting}, timeout=_GROUP_EVERY_S))[0]:
                if self._process.returncode is not None:
                    # its pipes are still open: processes of its group are left
                    kill_group(self.pid)
        finally:
            waiting.cancel()
        status = waiting.result()
        if self._over:
            return self._death
        self._over = True
        # A process below it may hold the other end open for longer.
        done, _ = await asyncio.wait({self._errors}, timeout=_LAST_WORDS_S)
        self._errors.cancel()
        self.said = "".join(task.result().decode(errors="replace").strip() for task in done)
        if status != 0:
            how = ExitStatus(signal=-status) if status < 0 else ExitStatus(code=status)
            self._death = self.outcome.name(how, self._below)
        return self._death

    async def close(self) -> Death | None:
        """End it, because it is not wanted any more. Return what `ended` returns."""
        if self._process.returncode is None:
            self.kill(Intent.SHUTDOWN)
        return await self.ended()


async def _last_of(stream: asyncio.StreamReader) -> bytes:
    """Read a stream to its end; return the last bytes."""
    last = b""
    while block := await stream.read(_LAST_BYTES):
        last = (last + block)[-_LAST_BYTES:]
    return last
