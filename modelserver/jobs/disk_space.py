"""Room for the audio of jobs that arrive: what is held, promised and written counts against
`jobs.disk`, and against the disk itself."""

import contextlib
import shutil
from collections.abc import AsyncIterator, Callable

from modelserver.settings import JobSettings
from supervisor import (
    NotReady,
    QueueFull,
    Spool,
    SpoolFull,
    SpoolLimits,
    SpoolStore,
    counted,
    in_units,
)

_LEAST_FREE_BYTES = 64 * 1024 * 1024
"""Bytes that must stay free on the disk."""
_QUEUE_LATER_S, _ROOM_LATER_S = 10.0, 30.0


def unusable(reason: object) -> NotReady:
    """Jobs cannot be used now."""
    return NotReady(f"jobs cannot be used: {reason}")


class Room:
    """The disk space of all jobs that arrive."""

    def __init__(
        self, settings: JobSettings, unfinished: Callable[[], int], held_bytes: Callable[[], int]
    ) -> None:
        """Share out the disk of `settings`. `unfinished`: returns the number of unfinished jobs;
        `held_bytes`: returns the bytes that all jobs hold on the disk."""
        self._settings = settings
        self._unfinished, self._held_bytes = unfinished, held_bytes
        self._spools = SpoolStore(SpoolLimits(0, 0, settings.directory))
        self._arriving: dict[Spool, tuple[str, int]] = {}
        """Owners and sizes of jobs that arrive, as far as they are known."""

    def arriving_of(self, owner: str) -> int:
        """Return how many jobs of that owner arrive."""
        return sum(one == owner for one, _ in self._arriving.values())

    @contextlib.asynccontextmanager
    async def arriving(self, owner: str, size: int | None) -> AsyncIterator[Spool]:
        """A spool for the audio of one more job, of `size` bytes as far as is known, on the disk
        where it is to stay. Both count against all limits until the block ends. Raises
        `supervisor.PoolError`."""
        self._must_have_room(size or 0)
        async with self._spools.open() as spool:
            self._arriving[spool] = owner, size or 0
            self._spools.note_disk(self._bytes() - self._spools.disk_bytes)
            try:
                yield spool
            finally:
                del self._arriving[spool]

    def _must_have_room(self, size: int) -> None:
        unfinished = self._unfinished() + len(self._arriving)
        if unfinished >= self._settings.queue:
            raise QueueFull(
                f"{counted(unfinished, 'unfinished job')}, the limit (jobs.queue): try again later",
                _QUEUE_LATER_S,
            )
        promised = sum(max(size, spool.size) for spool, (_, size) in self._arriving.items())
        room = self._bytes() - promised
        if room <= 0 or size > room:
            wanted = f" of {in_units(size)}" if size else ""
            raise SpoolFull(
                f"no space is left for the job's audio{wanted}: {in_units(max(0, room))} may be "
                f"used where jobs are stored (jobs.disk is {in_units(self._settings.disk)})",
                _ROOM_LATER_S,
            )

    def _bytes(self) -> int:
        """Return the bytes that the audio of arriving jobs may have in total. Raises
        `supervisor.NotReady`."""
        directory = self._settings.directory
        try:
            free = shutil.disk_usage(directory).free - _LEAST_FREE_BYTES
        except OSError as error:
            raise unusable(f"{directory}: {error.strerror}") from error
        written = self._spools.disk_bytes
        return min(free + written, self._settings.disk - self._held_bytes())
