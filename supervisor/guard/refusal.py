"""Rules of admission: whether a job may come in, and whether it may begin, as pure functions of its
expected needs and of what there is."""

from dataclasses import dataclass

from supervisor.errors import (
    MemoryPressure,
    PoolError,
    QueueFull,
    ResourceExhausted,
    SpoolFull,
    TooLarge,
)
from supervisor.guard.policy import GuardState
from supervisor.sizes import in_units

_LONGEST_RETRY_S = 60.0
_HOPELESS = 1.5
"""Factor by which a job's own time must exceed its deadline to be refused; one that may just be
done is tried."""
_LEAST_DESCRIPTORS_FREE = 32
_DESCRIPTORS_SHARE = 0.05
_LEAST_DISK_FREE = 64 * 1024 * 1024
_DISK_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Ask:
    """Needs of a job that asks to be admitted. None: not known yet."""

    units: float | None = None
    """Size of the job, such as seconds of audio."""
    input_bytes: int | None = None
    deadline_s: float | None = None
    stream: bool = False


@dataclass(frozen=True, slots=True)
class MemorySupply:
    """Memory for another job, in bytes. `left`: until the tightest limit; `reserved`: promised to
    jobs that have not used it yet."""

    state: GuardState
    left: int
    reserved: int

    @property
    def headroom(self) -> int:
        """Bytes that may still be promised."""
        return max(0, self.left - self.reserved)


@dataclass(frozen=True, slots=True)
class StaticSupply:
    """Supply that does not depend on what runs at present. `most_growth`: how much a worker could
    grow with all that the limits allow; `disk_total`: None if it is not known."""

    most_growth: int
    s_per_unit: float | None
    disk_total: int | None
    spool_memory_each: int


@dataclass(frozen=True, slots=True)
class Supply(MemorySupply):
    """Supply of everything that can run out, in bytes except where named otherwise; None: not
    known.

    `capacity`: what would be left if nothing of ours ran; `ever`: how much a worker could grow with
    all that the limits allow, None if that is `most`; `stream_need`: the expected growth by one
    more stream; `slots`: workers of the asker's pool.
    """

    capacity: int
    most_growth: int
    s_per_unit: float | None
    slots: int
    queued_units: float
    disk_total: int | None
    disk_left: int | None
    spool_memory_each: int
    descriptors_free: int | None
    descriptors_total: int | None
    ever: int | None = None
    stream_need: int = 0

    @property
    def most(self) -> int:
        """Bytes that a worker can grow now, with nothing else of ours running."""
        return min(self.capacity, self.most_growth)

    @property
    def static(self) -> StaticSupply:
        """Supply that does not depend on what runs."""
        most = self.most if self.ever is None else self.ever
        return StaticSupply(most, self.s_per_unit, self.disk_total, self.spool_memory_each)

    def wait_s(self, units: float) -> float | None:
        """Return the seconds it would take to finish all admitted jobs and `units` more, at the
        present pace; None if that is not known."""
        if self.s_per_unit is None:
            return None
        return (
            (self.queued_units + units)
            * self.s_per_unit
            / max(1, min(self.slots, self.state.concurrency))
        )


def refusal(ask: Ask, supply: Supply, certain: int | None) -> PoolError | None:
    """Explain why the job cannot be admitted; return None if it can. `certain`: its growth in
    bytes, if similar jobs have shown it."""
    return (
        never(ask, supply.static, certain)
        or _not_by_memory(ask, supply, certain)
        or _not_by_resources(ask, supply)
        or _not_in_time(ask, supply)
    )


def may_begin(expected: int, memory: MemorySupply, *, alone: bool) -> bool:
    """Return whether an admitted job may start now. One at a time always may, unless memory is
    critical and something else is still running."""
    return alone or (expected <= memory.headroom and memory.state.takes_work)


def disk_reserve(total: int) -> int:
    """Return the bytes of a file system that spools leave free."""
    return min(_LEAST_DISK_FREE, int(total * _DISK_SHARE))


def never(ask: Ask, static: StaticSupply, certain: int | None) -> PoolError | None:
    """Explain why the job could not be done here however long one waited; return None if it
    could."""
    most = static.most_growth
    if certain is not None and certain > most:
        return TooLarge(
            f"a job of this size makes a worker grow by {in_units(certain)}; at most "
            f"{in_units(most)} are possible here"
        )
    if ask.units and ask.deadline_s is not None and static.s_per_unit is not None:
        alone_s = ask.units * static.s_per_unit
        if alone_s > ask.deadline_s * _HOPELESS:
            return TooLarge(
                f"a job of this size would take about {alone_s:.0f} s here, if nothing else ran; "
                f"{ask.deadline_s:g} s are allowed"
            )
    total = static.disk_total
    if ask.input_bytes is None or total is None or ask.input_bytes <= static.spool_memory_each:
        return None
    if ask.input_bytes > total - disk_reserve(total):
        return TooLarge(
            f"an upload of {in_units(ask.input_bytes)} does not fit on the disk for uploads, "
            f"which has {in_units(total)}"
        )
    return None


def _not_by_memory(ask: Ask, supply: Supply, certain: int | None) -> PoolError | None:
    state = supply.state
    if not state.takes_work:
        return MemoryPressure(
            f"memory is short: {in_units(max(0, supply.left))} are left", _retry_after(supply)
        )
    if ask.stream and not state.takes_streams:
        return MemoryPressure(
            f"no new streams while memory is short: {in_units(max(0, supply.left))} are left",
            _retry_after(supply),
        )
    if ask.stream and supply.stream_need > supply.headroom:
        return MemoryPressure(
            f"a stream takes about {in_units(supply.stream_need)}, and "
            f"{in_units(supply.headroom)} are left",
            _retry_after(supply),
        )
    if certain is not None and certain > supply.most:
        return MemoryPressure(
            f"a job of this size makes a worker grow by {in_units(certain)}; "
            f"at most {in_units(supply.most)} are possible now",
            _retry_after(supply),
        )
    return None


def _not_by_resources(ask: Ask, supply: Supply) -> PoolError | None:
    size, left = ask.input_bytes or 0, supply.disk_left
    if left is not None and size > supply.spool_memory_each and size > left:
        return SpoolFull(
            f"an upload of {in_units(size)} does not fit on the disk now; "
            f"{in_units(max(0, left))} are left beside the present uploads"
        )
    total = supply.descriptors_total
    if supply.descriptors_free is not None and total is not None:
        least = min(_LEAST_DESCRIPTORS_FREE, int(total * _DESCRIPTORS_SHARE))
        if supply.descriptors_free < least:
            return ResourceExhausted(
                f"only {supply.descriptors_free} file descriptors are left of {total}"
            )
    return None


def _not_in_time(ask: Ask, supply: Supply) -> PoolError | None:
    if ask.deadline_s is None:
        return None
    wait_s = supply.wait_s(ask.units or 0.0)
    if wait_s is None or wait_s <= ask.deadline_s or supply.queued_units == 0:
        return None
    retry = min(_LONGEST_RETRY_S, max(1.0, wait_s - ask.deadline_s))
    what = f"it would take about {wait_s:.0f} s, and {ask.deadline_s:g} s are allowed"
    if supply.state.concurrency < supply.state.workers:
        return MemoryPressure(f"memory is short, so that fewer workers run: {what}", retry)
    return QueueFull(f"too much work is waiting: {what}", retry)


def _retry_after(supply: Supply) -> float:
    """Return the seconds after which the present jobs are likely to be done."""
    wait_s = supply.wait_s(0.0)
    return 2.0 if wait_s is None else min(_LONGEST_RETRY_S, max(1.0, wait_s))
