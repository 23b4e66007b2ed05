"""A guard's situations, made up."""

from supervisor.guard.limits import MIB, Budget, Explained, Limits
from supervisor.guard.policy import LoadView, Situation, WorkerView
from supervisor.guard.starvation import NO_WAITING, Waiting

GIB = 1024 * MIB
LIMITS = Limits(Explained(1024 * MIB, "a test"), Explained(32 * MIB, "a test"), 80 * MIB, 30 * MIB)


def budget(growth: int = 200 * MIB, max_rss: int | None = None) -> Budget:
    most = None if max_rss is None else Explained(max_rss, "debug.max_rss")
    return Budget(Explained(growth, "a test"), Explained(growth * 3 // 2, "a test"), most)


def worker(
    pid: int = 1,
    *,
    growth: int = 0,
    busy: bool = False,
    leaving: bool = False,
    unreclaimable: int = 0,
    rate: float = 0.0,
) -> WorkerView:
    return WorkerView(pid, busy, leaving, growth, unreclaimable or growth + 100 * MIB, rate)


def situation(
    left: int = 500 * MIB,
    *workers: WorkerView,
    time: float = 100.0,
    loading: tuple[LoadView, ...] = (),
    waiting: Waiting = NO_WAITING,
    allowed: Budget | None = None,
) -> Situation:
    allowed = allowed or budget()
    return Situation(time, left, LIMITS, allowed, workers, loading, (), waiting)
