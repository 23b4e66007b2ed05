"""The last seconds of memory and the last deaths, in bounded rings: what a post-mortem needs."""

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
"""At four a second: half a minute."""
_DEATHS = 64
_BEFORE_DEATH = 20


_EVENTS = {"worker": "worker.exited", "fork server": "fork_server.exited"}
"""What the log calls it, by role; everybody else is a helper."""


class ProcessMoment(msgspec.Struct, array_like=True, frozen=True):
    """One process in one moment. Bytes."""

    pid: int
    role: str
    rss: int
    unreclaimable: int
    growth: int


class Moment(msgspec.Struct, array_like=True, frozen=True):
    """Memory at `time` (seconds since the epoch). Bytes."""

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
    moments: PackedRing[Moment]

    @property
    def last(self) -> ProcessMoment | None:
        """Memory that it held when it was last looked at."""
        for moment in reversed(self.moments):
            for process in moment.processes:
                if process.pid == self.death.pid:
                    return process
        return None


class History:
    """The rings."""

    def __init__(self) -> None:
        self._moments = PackedRing.of(Moment, _MOMENTS)
        self._deaths: deque[DeathRecord] = deque(maxlen=_DEATHS)

    def passed(self, moment: Moment) -> None:
        """Remember a moment."""
        self._moments.append(moment)

    def died(
        self, role: str, death: Death, *, slot: int | None = None, job: int | None = None
    ) -> DeathRecord:
        """Remember a death, with what came before it, unless it was asked for."""
        before = self._moments.newest(_BEFORE_DEATH)
        record = DeathRecord(time.time(), role, slot, death, job, before)
        if death.cause not in EXPECTED:
            self._deaths.append(record)
        return record

    def record(self, death: Death) -> DeathRecord | None:
        """Of that death, if it is remembered."""
        return next((o for o in reversed(self._deaths) if o.death is death), None)

    @property
    def moments(self) -> PackedRing[Moment]:
        """Oldest first."""
        return self._moments

    @property
    def deaths(self) -> tuple[DeathRecord, ...]:
        """Oldest first."""
        return tuple(self._deaths)


class Deaths:
    """`evidence` tells whom the kernel has killed; `by_cause` counts."""

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
        """One more; `reason` is why we meant it, if we did; `output`: what it wrote last."""
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
