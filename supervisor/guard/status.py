"""A reading of the guard at one moment, for health pages and people."""

from dataclasses import dataclass

from supervisor.guard.admission_control import AdmissionControl
from supervisor.guard.limits import Budget, Limits
from supervisor.guard.observer import Observer
from supervisor.guard.policy import GuardState
from supervisor.guard.snapshot import Snapshots
from supervisor.guard.starvation import Waiting
from supervisor.readings.memory import Bound, MemoryReading
from supervisor.readings.resources import ResourceReading


@dataclass(frozen=True, slots=True)
class GuardStatus:
    """State of the guard at one moment, in bytes: `left` until the tightest bound less the reserve,
    `reserved` promised to jobs that have not used it yet."""

    state: GuardState
    limits: Limits
    budget: Budget
    bounds: tuple[Bound, ...]
    tightest: Bound
    left: int
    reserved: int
    used: int
    mapped: int
    waiting: Waiting
    faults: int
    """Major faults of all workers so far."""
    waited_s: float
    """Seconds of their work in which they neither ran nor waited for a processor, so far."""
    memory: MemoryReading
    resources: tuple[ResourceReading, ...]
    spools_refused: str | None
    """Reason why an upload that has no room in memory cannot be held on the disk."""

    @property
    def headroom(self) -> int:
        """Bytes that may still be promised."""
        return max(0, self.left - self.reserved)


def read_status(
    state: GuardState, observer: Observer, snapshots: Snapshots, admission: AdmissionControl
) -> GuardStatus | None:
    """Return what is known now; None before the first reading."""
    if observer.reading is None:
        return None
    return GuardStatus(
        state,
        observer.budgets.limits,
        observer.budgets.budget,
        observer.bounds(),
        observer.tightest(),
        observer.budgets.left,
        admission.reserved(),
        observer.used(),
        snapshots.mapped(),
        observer.meter.waiting(),
        observer.meter.faults,
        observer.meter.waited_s,
        observer.reading,
        observer.resources,
        observer.spools_refused(),
    )
