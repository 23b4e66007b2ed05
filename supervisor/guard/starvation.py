"""How much of the workers' time goes into waiting for memory: for pages of the model that were
taken back and have to be read again.

A count of faults does not tell: a tenth of a millisecond each on a fast disk, ten on a slow one. So
time is what is measured, and faults only say what it was spent on.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

_WINDOW_S = 3.0
_LEAST_WORK_S = 0.5
_LEAST_FAULTS = 10.0
"""A second; at the ten milliseconds that the slowest disks take, a tenth of the time."""
_FAULT_S = 1e-4
"""What a fault takes where the kernel does not tell how long a process has run."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Of the last seconds. `faults` (major ones, of workers) and `refaults` (of file cache, in our
    cgroup or machine) per second of work; `share` of the time of work in which a worker neither ran
    nor waited for a processor."""

    faults: float = 0.0
    refaults: float = 0.0
    share: float = 0.0

    @property
    def lost(self) -> float:
        """The share of the time of work that goes into reading pages again.

        A page that is read for the first time is a major fault, but no refault; one that somebody
        else reads again is a refault, but none of our faults.
        """
        if self.faults < _LEAST_FAULTS:
            return 0.0
        return self.share * min(1.0, self.refaults / self.faults)


NO_WAITING = Waiting()


@dataclass(frozen=True, slots=True)
class WorkReading:
    """One worker, since its birth: seconds that it has had a job, seconds that it ran or waited
    for a processor (None: not known), and its major faults."""

    pid: int
    work_s: float
    ran_s: float | None
    faults: int


@dataclass(frozen=True, slots=True)
class _Totals:
    time: float
    work_s: float
    waited_s: float
    faults: int
    refaults: int


class WaitingMeter:
    """Adds up readings over a window of seconds."""

    def __init__(self) -> None:
        self._before: dict[int, WorkReading] = {}
        self._window: deque[_Totals] = deque([_Totals(-1e9, 0.0, 0.0, 0, 0)])
        self.faults = 0
        """Major faults of all workers so far."""
        self.waited_s = 0.0
        """Seconds of work in which a worker neither ran nor waited for a processor, so far."""

    def take(self, time: float, workers: Iterable[WorkReading], refaults: int) -> None:
        """Readings of all workers there are, and the count of refaults, at `time` (seconds)."""
        last = self._window[-1]
        now = {worker.pid: worker for worker in workers}
        work_s = last.work_s
        for pid, worker in now.items():
            if (before := self._before.get(pid)) is None:
                continue
            worked = worker.work_s - before.work_s
            faults = worker.faults - before.faults
            if worker.ran_s is None or before.ran_s is None:
                waited = faults * _FAULT_S
            else:
                waited = worked - (worker.ran_s - before.ran_s)
            work_s += worked
            self.waited_s += min(worked, max(0.0, waited))
            self.faults += faults
        self._before = now
        self._window.append(_Totals(time, work_s, self.waited_s, self.faults, refaults))
        while time - self._window[0].time > _WINDOW_S:
            self._window.popleft()

    def waiting(self) -> Waiting:
        """Of the last seconds; nothing where there was hardly any work."""
        first, last = self._window[0], self._window[-1]
        worked = last.work_s - first.work_s
        if worked < _LEAST_WORK_S:
            return NO_WAITING
        return Waiting(
            (last.faults - first.faults) / worked,
            (last.refaults - first.refaults) / worked,
            (last.waited_s - first.waited_s) / worked,
        )
