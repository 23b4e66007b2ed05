"""The last seconds of memory and the last deaths, in bounded rings: what a post-mortem needs."""

import time
from collections import deque
from dataclasses import dataclass

from supervisor.guard.policy import Level
from supervisor.processes.death import EXPECTED, Death

_MOMENTS = 128
"""At four a second: half a minute."""
_DEATHS = 64
_BEFORE_DEATH = 20


@dataclass(frozen=True, slots=True)
class ProcessMoment:
    """One process in one moment. Bytes."""

    pid: int
    role: str
    rss: int
    kept: int
    growth: int


@dataclass(frozen=True, slots=True)
class Moment:
    """What there was at `time` (seconds since the epoch). Bytes."""

    time: float
    level: Level
    left: int
    used: int
    bound: str
    processes: tuple[ProcessMoment, ...]


@dataclass(frozen=True, slots=True)
class DeathRecord:
    """A process that ended without being asked, and the moments before, oldest first."""

    time: float
    role: str
    slot: int | None
    death: Death
    job: int | None
    moments: tuple[Moment, ...]

    @property
    def last(self) -> ProcessMoment | None:
        """What it held when it was last looked at."""
        for moment in reversed(self.moments):
            for process in moment.processes:
                if process.pid == self.death.pid:
                    return process
        return None


class History:
    """The rings."""

    def __init__(self) -> None:
        self._moments: deque[Moment] = deque(maxlen=_MOMENTS)
        self._deaths: deque[DeathRecord] = deque(maxlen=_DEATHS)

    def passed(self, moment: Moment) -> None:
        """Remember a moment."""
        self._moments.append(moment)

    def died(
        self, role: str, death: Death, *, slot: int | None = None, job: int | None = None
    ) -> DeathRecord:
        """Remember a death, with what came before it, unless it was asked for."""
        before = tuple(self._moments)[-_BEFORE_DEATH:]
        record = DeathRecord(time.time(), role, slot, death, job, before)
        if death.cause not in EXPECTED:
            self._deaths.append(record)
        return record

    def record(self, death: Death) -> DeathRecord | None:
        """Of that death, if it is remembered."""
        return next((o for o in reversed(self._deaths) if o.death is death), None)

    @property
    def moments(self) -> tuple[Moment, ...]:
        """Oldest first."""
        return tuple(self._moments)

    @property
    def deaths(self) -> tuple[DeathRecord, ...]:
        """Oldest first."""
        return tuple(self._deaths)
