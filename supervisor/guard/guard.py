"""The guard's watch: reads memory all the time, lets the policy decide, and does what it says.

Readings that take more than microseconds are made in a thread of their own, once a second. Between
them, at least four times a second and more often the closer the limit is, a quick look: one counter
a process, and what the kernel calls available.
"""

import asyncio
import contextlib
import functools
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from supervisor.death import Intent
from supervisor.errors import PoolError, SpoolFull
from supervisor.forkserver import ForkServer
from supervisor.guard.admission import Ask, Supply, disk_reserve, may_begin, refusal
from supervisor.guard.estimate import GrowthEstimate, Pace
from supervisor.guard.history import Moment, ProcessMoment
from supervisor.guard.ledger import Ledger
from supervisor.guard.limits import (
    Budget,
    Explained,
    Limits,
    bounds_of,
    find_budget,
    find_limits,
    in_mib,
)
from supervisor.guard.policy import (
    Action,
    EndLoad,
    GuardState,
    LoadView,
    Recycle,
    Situation,
    Trim,
    WorkerView,
    decide,
)
from supervisor.job import Job
from supervisor.keeper import Keeper
from supervisor.readings.memory import (
    AvailableMemory,
    Bound,
    MemoryReader,
    MemoryReading,
    usage_files,
)
from supervisor.readings.processes import (
    PreciseMemory,
    ProcessMemory,
    descendants,
    read_precise,
    read_process,
)
from supervisor.readings.resources import (
    ResourceReading,
    read_descriptors,
    read_disk,
    read_processes,
)
from supervisor.settings import PoolSettings
from supervisor.spool import Spool, SpoolStore
from supervisor.trim import give_back
from supervisor.worker import Worker, WorkerState

log: structlog.stdlib.BoundLogger = structlog.get_logger("guard")

READ_EVERY_S = 1.0
LOOK_EVERY_S = 0.25
_EXACT_EVERY_S = 10.0
_EXACT_SHARE = 0.001
"""The share of a core that exact readings may take, where processes are large."""
_EXACT_SPACING_S = 1.0
_RESOURCES_EVERY_S = 1.0
_LEAST_INTERVAL_S = 0.01
_FASTEST_GROWTH = 5e9
"""Bytes a second: about as fast as the kernel hands out huge pages."""
_NOTABLE = 256 * 1024
"""Bytes: growth that is worth a decision of its own."""
_WINDOW_S = 3.0
_LEAST_WORK_S = 0.5


@dataclass(frozen=True, slots=True)
class FullReading:
    """All that is read in the thread."""

    memory: MemoryReading
    processes: tuple[ProcessMemory, ...]
    exact: tuple[PreciseMemory, ...] | None
    exact_cost_s: float
    resources: tuple[ResourceReading, ...] | None


@dataclass(frozen=True, slots=True)
class GuardStatus:
    """What the guard knows at one moment. Bytes; `left` until the tightest bound less the
    reserve, `reserved` promised to jobs that have not used it yet."""

    state: GuardState
    limits: Limits
    budget: Budget
    bounds: tuple[Bound, ...]
    tightest: Bound
    left: int
    reserved: int
    used: int
    mapped: int
    faults: float
    refaults: float
    memory: MemoryReading
    resources: tuple[ResourceReading, ...]
    s_per_unit: float | None

    @property
    def headroom(self) -> int:
        """What may still be promised."""
        return max(0, self.left - self.reserved)


class Guard:
    """Use as `async with`, inside the keeper's."""

    def __init__(
        self,
        settings: PoolSettings,
        keeper: Keeper,
        spools: SpoolStore | None,
        waiting: Callable[[], Iterable[Job]],
        on_change: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._keeper = keeper
        self._spools = spools
        self._waiting = waiting
        self._on_change = on_change
        self.state = GuardState(settings.workers)
        self._ledger = Ledger()
        self._growth = GrowthEstimate()
        self._pace = Pace()
        self._reading: MemoryReading | None = None
        self._resources: tuple[ResourceReading, ...] = ()
        self._limits: Limits | None = None
        self._budget = find_budget(settings.memory, None, settings.workers)
        self._budget_for: tuple[int | None, int] | None = None
        self._left = 0
        self._kept_at_reading = 0
        self._decided_at, self._decided_at_growth = -1e9, 0
        self._usage_then: list[tuple[Path, int]] = []
        self._window: deque[tuple[float, float, int, int]] = deque()
        self._work_s, self._faults = 0.0, 0
        self._running: dict[int, tuple[Worker, int, int]] = {}
        self._admitted_input: dict[int, int] = {}
        self._tickets = itertools.count(1)
        self._moving: set[asyncio.Task[None]] = set()
        self._exact_at = -1e9
        self._exact_cost_s = 0.0
        self._available = AvailableMemory()
        self._reader = _Reader(spools.limits.directory if spools else None)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guard")
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Guard":
        await self._read()
        self._task = asyncio.create_task(self._watch(), name="guard")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        for task in (self._task, *self._moving):
            task.cancel()
        await asyncio.gather(self._task, *self._moving, return_exceptions=True)
        self._thread.shutdown(wait=True)
        self._available.close()
        self._ledger.close()

    # --- what the pool asks ---------------------------------------------------------------------

    def refusal(self, ask: Ask, queued_units: float) -> PoolError | None:
        """Why a job may not come in; None if it may."""
        units = ask.units or 0.0
        supply = self._supply(queued_units)
        return refusal(ask, supply, self._growth.certain(units))

    def admitted(self, ask: Ask) -> int:
        """It came in: its input is expected. Returns a ticket for `released`."""
        ticket = next(self._tickets)
        if self._spools is not None:
            self._admitted_input[ticket] = ask.input_bytes or self._spools.limits.memory_each
        return ticket

    def released(self, ticket: int) -> None:
        """Its answer has been given."""
        self._admitted_input.pop(ticket, None)

    def may_begin(self, job: Job) -> bool:
        """The job may be given to an idle worker now."""
        running = len(self._running)
        if running >= self.state.concurrency:
            return False
        return may_begin(self._expected(job), self._supply(0.0), alone=running == 0)

    def began(self, worker: Worker, job: Job) -> None:
        """The worker has it: what it is expected to need is reserved."""
        self._running[worker.pid] = (worker, self._expected(job), self._ledger.growth(worker.pid))

    def ended(self, worker: Worker) -> None:
        """The worker has no job any more."""
        self._running.pop(worker.pid, None)

    def finished(self, worker: Worker, units: float | None, run_s: float, growth: int) -> None:
        """It finished a job: learn from it, and recycle it if it has grown too much."""
        if units:
            self._growth.learn(units, growth - worker.growth_bytes)
            self._pace.learn(units, run_s)
        worker.growth_bytes = growth
        allowed = self._budget.growth.bytes
        if growth > allowed:
            self._recycle(worker, f"it had grown by {in_mib(growth)} of {in_mib(allowed)}")

    def growth(self, worker: Worker) -> int:
        """What the worker holds of its own."""
        return self._ledger.growth(worker.pid)

    def rss(self, worker: Worker) -> int:
        """All that the worker has in RAM, shared and mapped memory included."""
        return self._ledger.rss(worker.pid)

    def status(self) -> GuardStatus | None:
        """What is known now; None before the first reading."""
        if self._reading is None or self._limits is None:
            return None
        bounds = self._bounds()
        faults, refaults = self._rates()
        return GuardStatus(
            self.state,
            self._limits,
            self._budget,
            bounds,
            _tightest(bounds),
            self._left,
            self._reserved(),
            self._used(),
            self._ledger.mapped(),
            faults,
            refaults,
            self._reading,
            self._resources,
            self._pace.s_per_unit,
        )

    # --- watching -------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            try:
                await self._until_next_reading()
                await self._read()
            except Exception:
                log.critical("guard.failed", exc_info=True)
                await asyncio.sleep(1.0)

    async def _until_next_reading(self) -> None:
        loop = asyncio.get_running_loop()
        next_reading = loop.time() + READ_EVERY_S
        while (remaining := next_reading - loop.time()) > 0:
            await asyncio.sleep(min(self._interval(), remaining))
            if self._look():
                return

    def _interval(self) -> float:
        """Less than the time in which the fastest growth could use up what is left."""
        assert self._limits is not None
        if any(not server.loaded.done() for server in self._keeper.servers):
            return _LEAST_INTERVAL_S
        if not self._running:
            return LOOK_EVERY_S
        left = max(0, self._left + self._limits.reserve.bytes)
        return max(_LEAST_INTERVAL_S, min(LOOK_EVERY_S, left / _FASTEST_GROWTH))

    def _look(self) -> bool:
        """A quick look; True if a whole reading is due at once: there is a process without an
        account, or somebody else in our cgroups has taken or cached much."""
        assert self._limits is not None
        now = time.monotonic()
        self._ledger.look(now)
        grown = self._ledger.total_kept() - self._kept_at_reading
        if abs(grown - self._decided_at_growth) > _NOTABLE or now - self._decided_at > LOOK_EVERY_S:
            self._decided_at_growth = grown
            available = self._available.read() - self._limits.reserve.bytes
            self._decide(min(self._left - max(0, grown), available))
        if any(process.pid not in self._ledger.known() for process in self._processes()):
            return True
        charged = sum(_counter(file) - then for file, then in self._usage_then)
        return charged - grown > max(0, self._left) / 2

    def _processes(self) -> list[ForkServer | Worker]:
        """Those that run."""
        processes: list[ForkServer | Worker] = [*self._keeper.servers, *self._keeper.workers]
        return [process for process in processes if process.running]

    async def _read(self) -> None:
        now = time.monotonic()
        settled = now - self._exact_at > _EXACT_SPACING_S
        every = max(_EXACT_EVERY_S, self._exact_cost_s / _EXACT_SHARE)
        exact = (self._ledger.outdated and settled) or now - self._exact_at > every
        keeper = self._keeper
        known = [process.pid for process in self._processes()]
        loop = asyncio.get_running_loop()
        read = functools.partial(self._reader.read, known, exact=exact)
        reading = await loop.run_in_executor(self._thread, read)
        if exact:
            self._exact_at, self._exact_cost_s = now, reading.exact_cost_s
        if reading.resources is not None:
            self._resources = reading.resources
            disk = self._resource("disk")
            if self._spools is not None and disk is not None:
                self._spools.note_disk(disk.free - disk_reserve(disk.limit))
        keeper.evidence.look()
        self._take(reading)
        self._set_limits()
        self._left = self._left_of(self._bounds())
        self._decide(self._left)
        self._remember()
        self._on_change()

    def _take(self, reading: FullReading) -> None:
        now = reading.memory.time
        born = {worker.pid: worker.born_bytes for worker in self._keeper.workers}
        workers = born.keys()
        self._ledger.keep_only({process.pid for process in reading.processes})
        for process in reading.processes:
            faults = self._ledger.take(now, process, born.get(process.pid, 0))
            if process.pid in workers:
                self._faults += faults
        if reading.exact is not None:
            self._ledger.take_exact(reading.exact)
        before = self._reading.time if self._reading else now
        self._work_s += len(self._running) * (now - before)
        self._window.append((now, self._work_s, self._faults, reading.memory.refaults))
        while now - self._window[0][0] > _WINDOW_S:
            self._window.popleft()
        self._reading = reading.memory
        self._kept_at_reading, self._decided_at_growth = self._ledger.total_kept(), 0
        self._usage_then = [(file, _counter(file)) for file in usage_files(reading.memory)]

    def _set_limits(self) -> None:
        limits = find_limits(self._bounds(), self._settings.memory)
        server = self._keeper.live_server()
        basis = (server.pid if server else None, limits.limit.bytes)
        changed = self._limits is not None and limits != self._limits
        self._limits = limits
        if self._budget_for == basis:
            return
        left = None
        if server is not None:
            if self._ledger.outdated:
                return  # what the model takes is not known exactly yet
            left = self._left_of(self._bounds()) + self._growths()
        self._budget_for = basis
        self._budget = find_budget(self._settings.memory, left, self._settings.workers)
        if server is not None or changed or self._settings.memory.limit is not None:
            log.info(
                "guard.limits",
                limit_bytes=limits.limit.bytes,
                limit_is=limits.limit.reason,
                reserve_bytes=limits.reserve.bytes,
                reserve_is=limits.reserve.reason,
                budget_bytes=self._budget.growth.bytes,
                budget_is=self._budget.growth.reason,
                hard_budget_bytes=self._budget.hard.bytes,
                max_rss_bytes=self._budget.max_rss.bytes if self._budget.max_rss else None,
            )

    def _decide(self, left: int) -> None:
        assert self._limits is not None
        self._decided_at = time.monotonic()
        faults, refaults = self._rates()
        ledger = self._ledger
        situation = Situation(
            time.monotonic(),
            left,
            self._limits,
            self._budget,
            tuple(
                WorkerView(
                    w.pid,
                    w.job is not None,
                    w.state is WorkerState.LEAVING,
                    ledger.growth(w.pid),
                    ledger.kept(w.pid),
                    ledger.rate(w.pid),
                )
                for w in self._keeper.workers
                if w.running
            ),
            tuple(
                LoadView(server.pid, ledger.kept(server.pid), ledger.rate(server.pid))
                for server in self._keeper.servers
                if not server.loaded.done()
            ),
            faults,
            refaults,
        )
        before = self.state
        decision = decide(before, situation)
        self.state = decision.state
        if (before.level, before.starved, before.concurrency) != (
            self.state.level,
            self.state.starved,
            self.state.concurrency,
        ):
            self._changed(before, left, faults, refaults)
        for action in decision.actions:
            self._do(action)

    # --- acting ---------------------------------------------------------------------------------

    def _changed(self, before: GuardState, left: int, faults: float, refaults: float) -> None:
        state, bound = self.state, _tightest(self._bounds())
        if state.level != before.level:
            (log.warning if state.level > before.level else log.info)(
                "guard.level",
                now=state.level.word,
                was=before.level.word,
                left_bytes=left,
                tightest=bound.name,
                limit_bytes=bound.limit,
                used_bytes=bound.used,
            )
            if self._spools is not None:
                self._spools.memory_allowed = state.spools_in_memory
            if not state.spools_in_memory and before.spools_in_memory:
                self._move_spools()
        if (state.starved, state.starved_concurrency) != (
            before.starved,
            before.starved_concurrency,
        ):
            (log.warning if state.starved else log.info)(
                "guard.starved" if state.starved else "guard.fed",
                concurrency=state.concurrency,
                faults_per_s=round(faults),
                refaults_per_s=round(refaults),
                would_end_it=self.starved_needs() or None,
            )

    def starved_needs(self) -> str:
        """How much more memory would end it, in words; empty while the model is not starved."""
        server = self._keeper.live_server()
        if not self.state.starved or server is None:
            return ""
        report, resident = server.report(), self._ledger.mapped()
        mapped = report.get("mapped_bytes") or 0
        usual = report.get("working_set_bytes") or 0
        most = max(0, mapped - resident)
        if usual > resident:
            return f"about {in_mib(usual - resident)} more memory, at most {in_mib(most)}"
        return f"at most {in_mib(most)} more memory"

    def _do(self, action: Action) -> None:
        if isinstance(action, Trim):
            log.info("guard.trim")
            self._trim()
            return
        if isinstance(action, EndLoad):
            for server in self._keeper.servers:
                if server.pid == action.pid:
                    self._remember()
                    log.error("guard.load_ended", pid=action.pid, reason=action.reason)
                    server.kill(Intent.SHORTAGE, action.reason)
            return
        worker = next((w for w in self._keeper.workers if w.pid == action.pid), None)
        if worker is None:
            return
        if isinstance(action, Recycle):
            self._recycle(worker, action.reason)
        elif worker.running:
            self._remember()
            log.warning("guard.kill", worker=worker.seat, pid=worker.pid, reason=action.reason)
            worker.kill(Intent.BUDGET if action.own_fault else Intent.SHORTAGE, action.reason)

    def _recycle(self, worker: Worker, reason: str) -> None:
        if worker.state in (WorkerState.IDLE, WorkerState.BUSY):
            log.info("worker.outgrown", worker=worker.seat, pid=worker.pid, reason=reason)
            self._keeper.retire(worker, reason)

    def _trim(self) -> None:
        for worker in self._keeper.workers:
            if worker.state is WorkerState.IDLE:
                worker.trim()
        if (server := self._keeper.live_server()) is not None:
            server.trim()
        asyncio.get_running_loop().run_in_executor(self._thread, give_back)

    def _move_spools(self) -> None:
        """Those whose job has not begun; the others are mapped by a worker already."""
        spools = [job.spool for job in self._waiting() if isinstance(job.spool, Spool)]
        task = asyncio.create_task(_to_disk(spools))
        self._moving.add(task)
        task.add_done_callback(self._moving.discard)

    # --- figures --------------------------------------------------------------------------------

    def _expected(self, job: Job) -> int:
        return min(self._growth.expected(job.units or 0.0), self._budget.hard.bytes)

    def _reserved(self) -> int:
        """For running jobs what they have not grown by yet; for inputs that are on their way,
        what may be held in memory of them."""
        jobs = sum(
            max(0, expected - max(0, self._ledger.growth(pid) - then))
            for pid, (_, expected, then) in self._running.items()
        )
        if self._spools is None or not self.state.spools_in_memory:
            return jobs
        limits = self._spools.limits
        coming = sum(min(size, limits.memory_each) for size in self._admitted_input.values())
        coming = min(coming, limits.memory_total)
        return jobs + max(0, coming - self._spools.usage().memory_bytes)

    def _supply(self, queued_units: float) -> Supply:
        disk = self._resource("disk")
        descriptors = self._resource("descriptors")
        spools = self._spools.usage() if self._spools else None
        held = spools.disk_bytes if spools else 0
        return Supply(
            state=self.state,
            left=self._left,
            reserved=self._reserved(),
            capacity=self._left + self._growths() + (spools.memory_bytes if spools else 0),
            most_growth=self._budget.hard.bytes,
            s_per_unit=self._pace.s_per_unit,
            queued_units=queued_units,
            disk_total=disk.free + held if disk else None,
            disk_left=self._disk_left(held),
            spool_memory_each=self._spools.limits.memory_each if self._spools else 0,
            descriptors_free=descriptors.free if descriptors else None,
            descriptors_total=descriptors.limit if descriptors else None,
        )

    def _disk_left(self, held: int) -> int | None:
        """Room on the disk for uploads that nobody has been promised."""
        room = self._spools.disk_room() if self._spools else None
        if self._spools is None or room is None:
            return None
        each = self._spools.limits.memory_each
        coming = sum(size for size in self._admitted_input.values() if size > each)
        return room - max(0, coming - held)

    def _resource(self, name: str) -> ResourceReading | None:
        return next((r for r in self._resources if r.name == name), None)

    def _growths(self) -> int:
        return sum(self._ledger.growth(worker.pid) for worker in self._keeper.workers)

    def _used(self) -> int:
        return self._ledger.used() + (self._spools.usage().memory_bytes if self._spools else 0)

    def _bounds(self) -> tuple[Bound, ...]:
        assert self._reading is not None
        return bounds_of(self._reading, self._settings.memory, self._used())

    def _left_of(self, bounds: tuple[Bound, ...]) -> int:
        assert self._limits is not None
        return _left(_tightest(bounds)) - self._limits.reserve.bytes

    def _rates(self) -> tuple[float, float]:
        """Major faults of the workers, and refaults, per second of work."""
        if not self._window:
            return 0.0, 0.0
        (_, work, faults, refaults), (_, work_now, faults_now, refaults_now) = (
            self._window[0],
            self._window[-1],
        )
        worked = work_now - work
        if worked < _LEAST_WORK_S:
            return 0.0, 0.0
        return (faults_now - faults) / worked, (refaults_now - refaults) / worked

    def _remember(self) -> None:
        roles = {worker.pid: "worker" for worker in self._keeper.workers}
        roles |= {server.pid: "fork server" for server in self._keeper.servers}
        roles[os.getpid()] = "supervisor"
        self._keeper.history.passed(
            Moment(
                time.time(),
                self.state.level,
                self._left,
                self._used(),
                _tightest(self._bounds()).name,
                tuple(
                    ProcessMoment(
                        pid,
                        roles.get(pid, "helper"),
                        self._ledger.rss(pid),
                        self._ledger.kept(pid),
                        self._ledger.growth(pid),
                    )
                    for pid in self._ledger.known()
                ),
            )
        )


def explain_limits(settings: PoolSettings) -> dict[str, Explained]:
    """What the guard would keep to here and now, before a model is loaded: by the names of the
    settings."""
    limits = find_limits(bounds_of(MemoryReader().read(), settings.memory, 0), settings.memory)
    budget = find_budget(settings.memory, None, settings.workers)
    return {"memory.limit": limits.limit, "memory.reserve": limits.reserve} | {
        "workers.budget": budget.growth
    }


class _Reader:
    """Lives in the guard's thread."""

    def __init__(self, spool_directory: Path | None) -> None:
        self._memory = MemoryReader()
        self._spool_directory = spool_directory
        self._helpers: list[int] = []
        self._slow_at = -1e9

    def read(self, known: Iterable[int], *, exact: bool) -> FullReading:
        """`known` processes, and whoever else was found below us in the last second."""
        now, me = time.monotonic(), os.getpid()
        resources = None
        if now - self._slow_at > _RESOURCES_EVERY_S:
            self._slow_at = now
            self._helpers = descendants(me)
            disk = read_disk(self._spool_directory) if self._spool_directory else None
            resources = tuple(r for r in (disk, read_descriptors(), read_processes()) if r)
        pids = list(dict.fromkeys([me, *known, *self._helpers]))
        memory = self._memory.read()
        processes = tuple(p for pid in pids if (p := read_process(pid)))
        began = time.thread_time()
        precise = tuple(e for pid in pids if (e := read_precise(pid))) if exact else None
        return FullReading(memory, processes, precise, time.thread_time() - began, resources)


def _left(bound: Bound) -> int:
    return bound.limit - bound.used


def _tightest(bounds: tuple[Bound, ...]) -> Bound:
    return min(bounds, key=_left)


def _counter(file: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_bytes())
    return 0


async def _to_disk(spools: Iterable[Spool]) -> None:
    for spool in spools:
        try:
            await spool.to_disk()
        except SpoolFull as error:
            log.warning("guard.spool_stays_in_memory", reason=error.message)
            return
