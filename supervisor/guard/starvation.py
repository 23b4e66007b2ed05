"""Starvation: the share of the workers' time spent waiting for pages of the model that were evicted
and have to be read again.

A count of faults does not tell: a fault takes a tenth of a millisecond on a fast disk and ten on a
slow one. So time is measured, and faults only tell what it was spent on.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

_WINDOW_S = 3.0
_LEAST_WORK_S = 0.5
_LEAST_FAULTS = 10.0
"""Faults per second below which nothing is starved: at ten milliseconds each, as on the slowest
disks, a tenth of the time."""
_FAULT_S = 1e-4
"""Assumed seconds per fault where the kernel does not tell how long a process has run."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Waits in the last seconds: `faults` (major ones, of workers) and `refaults` (of file cache,
    in our cgroup or machine) per second of work; `share` of the working time in which a worker
    neither ran nor waited for a processor."""

    faults: float = 0.0
    refaults: float = 0.0
    share: float = 0.0

    @property
    def lost(self) -> float:
        """Share of the working time spent reading pages again.

        A page that is read for the first time is a major fault, but not a refault; a page that
        another process reads again is a refault, but not a fault of ours.
        """
        if self.faults < _LEAST_FAULTS:
            return 0.0
        return self.share * min(1.0, self.refaults / self.faults)


NO_WAITING = Waiting()


@dataclass(frozen=True, slots=True)
class WorkReading:
    """Work of one worker since it started: seconds that it had a job, seconds that it ran or waited
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
    """Sums of readings over a window of seconds."""

    def __init__(self) -> None:
        self._before: dict[int, WorkReading] = {}
        self._window: deque[_Totals] = deque([_Totals(-1e9, 0.0, 0.0, 0, 0)])
        self.faults = 0
        """Major faults of all workers so far."""
        self.waited_s = 0.0
        """Seconds of work in which a worker neither ran nor waited for a processor, so far."""

    def take(self, time: float, workers: Iterable[WorkReading], refaults: int) -> None:
        """Add readings of all workers, and the count of refaults, at `time` (seconds)."""
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
        """Return the waits in the last seconds; zeros if there was hardly any work."""
        first, last = self._window[0], self._window[-1]
        worked = last.work_s - first.work_s
        if worked < _LEAST_WORK_S:
            return NO_WAITING
        return Waiting(
            (last.faults - first.faults) / worked,
            (last.refaults - first.refaults) / worked,
            (last.waited_s - first.waited_s) / worked,
        )
