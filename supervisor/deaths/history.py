"""The last seconds of memory readings and the last deaths, in bounded rings, for a post-mortem."""

import time
from collections import Counter, deque
from dataclasses import dataclass

import msgspec

from supervisor.deaths.death import EXPECTED, Cause, Death
from supervisor.deaths.kernel_oom import OomEvidence
from supervisor.deaths.level import Level
from supervisor.log import get_logger
from supervisor.packed import PackedRing

log = get_logger("supervisor")

_MOMENTS = 128
"""Number of moments: half a minute at four a second."""
_DEATHS = 64
_BEFORE_DEATH = 20


_EVENTS = {"worker": "worker.exited", "fork server": "fork_server.exited"}
"""Log event by role; every other process is a helper."""


class ProcessMoment(msgspec.Struct, array_like=True, frozen=True):
    """Memory of a process at one moment, in bytes."""

    pid: int
    role: str
    rss: int
    unreclaimable: int
    growth: int


class Moment(msgspec.Struct, array_like=True, frozen=True):
    """Memory at `time` (seconds since the epoch), in bytes."""

    time: float
    level: Level
    left: int
    used: int
    bound: str
    processes: tuple[ProcessMoment, ...]


@dataclass(frozen=True, slots=True)
class DeathRecord:
    """Process that ended without being asked, and the moments before, oldest first."""

    time: float
    role: str
    slot: int | None
    death: Death
    job: int | None
    moments: PackedRing[Moment]

    @property
    def last(self) -> ProcessMoment | None:
        """Memory that it held at the last reading."""
        for moment in reversed(self.moments):
            for process in moment.processes:
                if process.pid == self.death.pid:
                    return process
        return None


class History:
    """Rings of moments and deaths."""

    def __init__(self) -> None:
        self._moments = PackedRing.of(Moment, _MOMENTS)
        self._deaths: deque[DeathRecord] = deque(maxlen=_DEATHS)

    def passed(self, moment: Moment) -> None:
        """Remember a moment."""
        self._moments.append(moment)

    def died(
        self, role: str, death: Death, *, slot: int | None = None, job: int | None = None
    ) -> DeathRecord:
        """Remember a death with the moments before it, unless it was asked for."""
        before = self._moments.newest(_BEFORE_DEATH)
        record = DeathRecord(time.time(), role, slot, death, job, before)
        if death.cause not in EXPECTED:
            self._deaths.append(record)
        return record

    def record(self, death: Death) -> DeathRecord | None:
        """Return the record of that death, if it is remembered."""
        return next((o for o in reversed(self._deaths) if o.death is death), None)

    @property
    def moments(self) -> PackedRing[Moment]:
        """Remembered moments, oldest first."""
        return self._moments

    @property
    def deaths(self) -> tuple[DeathRecord, ...]:
        """Remembered deaths, oldest first."""
        return tuple(self._deaths)


class Deaths:
    """Count of deaths by cause. `evidence` knows which processes the kernel has killed."""

    def __init__(self, history: History, evidence: OomEvidence) -> None:
        self.evidence = evidence
        self.by_cause: Counter[Cause] = Counter()
        self._history = history

    def died(
        self,
        role: str,
        death: Death,
        reason: str,
        *,
        slot: int | None = None,
        job: int | None = None,
        request_id: str | None = None,
        output: str = "",
    ) -> None:
        """Record a death. `reason`: why the supervisor ended it, if it did; `output`: the last that
        it wrote."""
        self.by_cause[death.cause] += 1
        last = self._history.died(role, death, slot=slot, job=job).last
        (log.info if death.cause in EXPECTED else log.warning)(
            _EVENTS.get(role, "helper.exited"),
            role=role if role not in _EVENTS else None,
            worker=slot,
            pid=death.pid,
            cause=death.cause.value,
            exit_code=death.status.code,
            signal=death.status.signal,
            job=job,
            request_id=request_id,
            reason=reason or None,
            unreclaimable_bytes=last.unreclaimable if last else None,
            growth_bytes=last.growth if last else None,
            output=output or None,
        )
