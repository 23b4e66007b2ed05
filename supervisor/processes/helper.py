"""A helper: a process beside the pools whose work can wait, such as preparing a model.

The guard ends it before any worker, and how it ended is told as of every other process.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from supervisor.processes.death import Death, ExitStatus, Intent, KillerWatch, Outcome

_LAST_WORDS_S = 1.0


class Helper:
    """One such process, with its standard output and error piped to us; a `role` is for people."""

    def __init__(self, role: str, process: asyncio.subprocess.Process, watch: KillerWatch) -> None:
        self.role = role
        self.pid = process.pid
        self.outcome = Outcome(role, process.pid, watch)
        self.below: frozenset[int] = frozenset()
        """The pids that were seen below it."""
        self.said = ""
        """What it wrote to standard error, once it has ended."""
        self._death: Death | None = None
        self._over = False
        self._process = process
        assert process.stderr is not None
        self._errors = asyncio.create_task(process.stderr.read())

    @classmethod
    async def start(
        cls, role: str, command: Sequence[str], environment: Mapping[str, str], watch: KillerWatch
    ) -> "Helper":
        """Exec it. Raises `OSError`."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
        )
        return cls(role, process, watch)

    async def lines(self) -> AsyncIterator[bytes]:
        """What it writes to standard output, until it has ended."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            yield line

    def kill(self, intent: Intent, reason: str = "") -> None:
        """SIGKILL, remembering why."""
        self.outcome.meant(intent, reason)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> Death | None:
        """Wait for its end; None if it did what it was for."""
        status = await self._process.wait()
        if self._over:
            return self._death
        self._over = True
        # Somebody below it may hold the other end open for longer.
        done, _ = await asyncio.wait({self._errors}, timeout=_LAST_WORDS_S)
        self._errors.cancel()
        self.said = "".join(task.result().decode(errors="replace").strip() for task in done)
        if status != 0:
            how = ExitStatus(signal=-status) if status < 0 else ExitStatus(code=status)
            self._death = self.outcome.name(how, self.below)
        return self._death

    async def close(self) -> Death | None:
        """It is not wanted any more. Returns what `ended` does."""
        if self._process.returncode is None:
            self.kill(Intent.SHUTDOWN)
        return await self.ended()
