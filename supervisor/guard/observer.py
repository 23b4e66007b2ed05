"""What the guard sees: readings, and quick looks between them, of our processes and of what
bounds them.

Readings that take more than microseconds are made in a thread of their own, once a second. Between
them, twenty times a second and more often the closer the limit is, a quick look: one counter a
process, and what the kernel calls available. At rest both are less frequent.
"""

import asyncio
import contextlib
import errno
import functools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from supervisor.deaths.history import Moment, ProcessMoment
from supervisor.deaths.kernel_oom import OomEvidence
from supervisor.deaths.level import Level
from supervisor.guard.accounting import Accounting
from supervisor.guard.limits import Limits, bounds_of, find_budget, find_limits
from supervisor.guard.members import Members
from supervisor.guard.policy import HelperView, LoadView, Situation, WorkerView
from supervisor.guard.reader import FullReading, Reader
from supervisor.guard.refusal import disk_reserve
from supervisor.guard.starvation import WaitingMeter, WorkReading
from supervisor.log import get_logger
from supervisor.processes.forkserver_handle import ForkServerHandle
from supervisor.processes.worker_handle import WorkerHandle, WorkerState
from supervisor.readings.files import NumberFile, read_file
from supervisor.readings.memory import (
    AvailableMemory,
    Bound,
    MemoryReading,
    limit_files,
    usage_files,
)
from supervisor.readings.resources import ResourceReading
from supervisor.settings import MemorySettings
from supervisor.sizes import in_units
from supervisor.spool import Spool, SpoolStore

log = get_logger("guard")

READ_EVERY_S = 1.0
READ_AT_REST_EVERY_S = 5.0
LOOK_EVERY_S = 0.05
LOOK_AT_REST_EVERY_S, _LEAST_AT_REST_S = 0.5, 0.1
_LOOK_AROUND_S = 0.05
_LIMITS_EVERY_S = 0.5
_EXACT_EVERY_S = 10.0
_EXACT_AT_REST_EVERY_S = 60.0
_EXACT_SHARE = 0.001
"""The share of a core that exact readings may take, where processes are large."""
_EXACT_SPACING_S = 1.0
_EXACT_IF_UNEXPLAINED_S = 0.25
LEAST_INTERVAL_S, LEAST_IF_GROWING_S = 0.025, 0.005
"""A look wakes a processor that may be idle, which costs more than the look: near a limit, too,
there are forty a second, until something grows."""
_GROWING, _CLOSER = 50e6, 5
"""Bytes a second, from which on looks are so many times closer."""
_NOTABLE_CHANGE = 1 / 8
"""Of a budget: by less it is not found anew."""
_FASTEST_GROWTH = 5e9
"""Bytes a second: about as fast as the kernel hands out huge pages."""
_LEAST_UNEXPLAINED = 64 * 1024 * 1024
STIRRED = 256 * 1024
"""Bytes: growth that is worth a look and a decision."""


@dataclass(frozen=True, slots=True)
class _Looked:
    """What the last look found, in bytes."""

    available: int
    charged: int


class Observer:
    """Call `read` once before anything else, and `close` at the end."""

    def __init__(
        self,
        settings: MemorySettings,
        members: Members,
        evidence: OomEvidence,
        spools: SpoolStore | None,
        reap_strangers: bool = False,
    ) -> None:
        self._settings = settings
        self._members = members
        self._evidence = evidence
        evidence.ours = lambda: [process.pid for process in self._processes()]
        self._reap_strangers = reap_strangers
        self._ending: set[int] = set()
        """Helpers that were ended, for as long as they are there."""
        self._spools = spools
        self.left_alone: tuple[int, ...] = ()
        """Processes below us that, with all below them, are looked after elsewhere."""
        self.elsewhere: Callable[[], int] = lambda: 0
        """Bytes that a process holds which is to make way for us."""
        self.accounting = Accounting()
        self.reading: MemoryReading | None = None
        self.resources: tuple[ResourceReading, ...] = ()
        self.budget = find_budget(settings, None, 1)
        self.left = 0
        """Bytes until the tightest bound, less the reserve, at the last whole reading."""
        self._limits: Limits | None = None
        self._budget_for: tuple[tuple[int, ...], int, bool] | None = None
        self._budget_logged = -1
        self._kept_at_reading = 0
        self._counters: dict[Path, NumberFile] = {}
        """Of what is charged to the cgroups that have a limit."""
        self._at_reading = _Looked(0, 0)
        self._limit_files: list[Path] = []
        self._limits_at_reading: list[bytes] = []
        self._limits_looked_at = 0.0
        self._bounds: tuple[Bound, ...] = ()
        """At the last reading."""
        self._looked = _Looked(0, 0)
        self._looked_around_at = -1e9
        self._unexplained = False
        """More was taken than our processes seem to have: they are to be read exactly."""
        self._threads: dict[int, int] = {}
        """By pid, how many each process has."""
        self._allowed: dict[int, int] = {}
        """By pid of a worker, the hard budget that what it works on has begun with."""
        self._without_streams: dict[int, int] = {}
        """By pid of a worker, its growth when it had no stream."""
        self._below: dict[int, frozenset[int]] = {}
        """What the models' loaders have started, by the pid of their fork servers."""
        self.meter = WaitingMeter()
        self._helpers: set[int] = set()
        """What was below us at the last whole reading and was no fork server or worker then."""
        self._zombies: frozenset[int] = frozenset()
        self.orphans: frozenset[int] = frozenset()
        """Processes below us that ended a while ago, and that nobody has asked how."""
        self._exact_at = -1e9
        self._exact_cost_s = 0.0
        self._available = AvailableMemory()
        self._reader = Reader(spools.limits.directory if spools else None)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guard")

    def close(self) -> None:
        """Let the thread and the files go."""
        self._thread.shutdown(wait=True)
        self._available.close()
        self.accounting.close()
        self._keep_counters(())

    # --- looking --------------------------------------------------------------------------------

    async def read(self) -> None:
        """A whole reading, in the thread."""
        now = time.monotonic()
        settled = now - self._exact_at > _EXACT_SPACING_S
        usual = _EXACT_AT_REST_EVERY_S if self.at_rest() else _EXACT_EVERY_S
        every = max(usual, self._exact_cost_s / _EXACT_SHARE)
        unexplained = self._unexplained and now - self._exact_at > _EXACT_IF_UNEXPLAINED_S
        exact = (
            unexplained or (self.accounting.outdated and settled) or now - self._exact_at > every
        )
        servers = [server.pid for server in self._members.servers if server.running]
        workers = [worker.pid for worker in self._members.workers if worker.running]
        known = [*servers, *workers]
        helpers = [helper.pid for helper in self._members.helpers]
        spools = self._spools_in_memory()
        loop = asyncio.get_running_loop()
        read = functools.partial(
            self._reader.read, servers, workers, helpers, exact=exact, but=self.left_alone
        )
        reading = await loop.run_in_executor(self._thread, read)
        for helper in self._members.helpers:
            helper.seen_below(now, reading.below.get(helper.pid, frozenset()))
        self._below = {pid: reading.below[pid] for pid in servers}
        if exact:
            self._exact_at, self._exact_cost_s = now, reading.exact_cost_s
            self._unexplained = False
        if reading.resources is not None:
            self._take_resources(reading.resources)
            # Whoever waits for a process asks in the same turn of the loop in which it ends. But
            # a child of others in this process may be waited for at any time.
            zombies = reading.zombies if self._reap_strangers else reading.zombies_of_ours
            self.orphans = self._zombies & zombies
            self._zombies = zombies
        self._evidence.look()
        started = {pid for below in self._below.values() for pid in below}
        self._helpers = {p.pid for p in reading.processes} - {os.getpid(), *known, *started}
        self._ending &= self._helpers
        for pid, size in self._spools_in_memory().items():
            spools[pid] = max(size, spools.get(pid, 0))  # whichever the reading has caught
        self._take(reading, spools)
        self._set_limits()
        self.left = self._left_now()
        self._bounds = self.bounds()

    def interval(self) -> float:
        """Seconds until the next look: less than the fastest growth would take to use up what is
        left of anything."""
        if self._loading():
            return LEAST_INTERVAL_S / 2
        in_time = min(map(_left, self._bounds), default=0) / _FASTEST_GROWTH
        growing = self.accounting.total_rate() > _GROWING
        if growing:
            return max(LEAST_IF_GROWING_S, min(LOOK_EVERY_S, in_time) / _CLOSER)
        if self.at_rest():
            return max(_LEAST_AT_REST_S, min(LOOK_AT_REST_EVERY_S, in_time))
        return max(LEAST_INTERVAL_S, min(LOOK_EVERY_S, in_time))

    def at_rest(self) -> bool:
        """No worker has anything to do, no helper runs, and no model is being loaded."""
        return not self._busy() and not self._members.helpers and not self._loading()

    def look(self) -> tuple[int, int]:
        """A quick look: by how much our processes have grown since the last reading, and the
        bytes that are left now."""
        now = time.monotonic()
        self.accounting.look(now)
        grown = self.accounting.total_kept() - self._kept_at_reading
        # What others take is looked at less often, unless they could use it up by then.
        far = self._looked.available > _LOOK_AROUND_S * _FASTEST_GROWTH
        if not far or now - self._looked_around_at >= _LOOK_AROUND_S:
            self._looked, self._looked_around_at = self._look_around(), now
        available = self._looked.available - self.limits.reserve.bytes
        return grown, min(self.left - max(0, grown), available)

    def _look_around(self) -> _Looked:
        charged = sum(counter.read() for counter in self._counters.values())
        return _Looked(self._available.read(), charged)

    def _keep_counters(self, paths: Sequence[Path]) -> None:
        for path in self._counters.keys() - set(paths):
            self._counters.pop(path).close()
        for path in paths:
            if path not in self._counters:
                with contextlib.suppress(OSError):
                    self._counters[path] = NumberFile(path)

    def outdated(self, grown: int) -> bool:
        """A whole reading is due at once: there is a process without an account, a limit
        was set anew, or somebody else in our cgroups has taken or cached much."""
        if any(process.pid not in self.accounting.known() for process in self._processes()):
            return True
        if self.accounting.uncertain() or self._limits_moved():
            return True
        charged = self._looked.charged - self._at_reading.charged
        taken = self._at_reading.available - self._looked.available
        if charged - grown > max(0, self.left) / 2 or (
            taken - grown > max(_LEAST_UNEXPLAINED, self.left / 4) and not self.at_rest()
        ):
            self._unexplained = True
        return self._unexplained

    def _limits_moved(self) -> bool:
        """Somebody has set a cgroup's limit anew. This costs too much to ask at every look."""
        now = time.monotonic()
        if now - self._limits_looked_at < _LIMITS_EVERY_S:
            return False
        self._limits_looked_at = now
        with contextlib.suppress(OSError):  # what cannot be read has not moved
            return [read_file(path) for path in self._limit_files] != self._limits_at_reading
        return False

    def run(self, function: Callable[[], None]) -> None:
        """Run something in the thread, when it is free."""
        asyncio.get_running_loop().run_in_executor(self._thread, function)

    # --- what is known --------------------------------------------------------------------------

    @property
    def known(self) -> bool:
        """There has been a whole reading."""
        return self.reading is not None

    @property
    def limits(self) -> Limits:
        """What memory has to fit into, as of the last reading."""
        assert self._limits is not None
        return self._limits

    def bounds(self) -> tuple[Bound, ...]:
        """Everything that bounds our memory."""
        assert self.reading is not None
        return bounds_of(self.reading, self._settings, self.used() + self.elsewhere())

    def tightest(self) -> Bound:
        """The one with the least left."""
        return min(self.bounds(), key=_left)

    def used(self) -> int:
        """What our processes and spools hold and cannot drop, counted once."""
        return self.accounting.used() + (self._spools.usage().memory_bytes if self._spools else 0)

    def growths(self) -> int:
        """What all workers hold of their own."""
        return sum(self.accounting.growth(worker.pid) for worker in self._members.workers)

    def most_growth_ever(self) -> int:
        """How much one worker could grow by with all that the limits allow beside the model."""
        serving = sum(self.accounting.kept(server.pid) for server in self._members.live_servers)
        left = max(0, self.limits.limit.bytes - self.limits.reserve.bytes - serving)
        budget = find_budget(self._settings, left, max(1, self._members.slots))
        return min(left, budget.hard.bytes)

    def reserved_for_streams(self) -> int:
        """What open streams are likely to take, and have not taken yet."""
        reserved = 0
        for member in self._members:
            need = member.stream_need.bytes
            for worker in member.lifecycle.workers:
                if worker.streams:
                    reserved += max(0, need * len(worker.streams) - self._grown_by_streams(worker))
        return reserved

    def _grown_by_streams(self, worker: WorkerHandle) -> int:
        growth = self.accounting.growth(worker.pid)
        return max(0, growth - self._without_streams.get(worker.pid, 0))

    def stream_allowance(self, worker: WorkerHandle) -> int:
        """What it may grow by beyond the budget: that is for a job, or for one stream."""
        member = self._members.of(worker)
        if member is None or len(worker.streams) < 2:
            return 0
        need = min(member.stream_need.bytes, self.budget.growth.bytes)
        return need * (len(worker.streams) - 1)

    def _hard_budget(self, worker: WorkerHandle) -> int:
        """What it works on keeps the budget that it has begun with: if others take memory, that is
        a shortage, and no fault of its own."""
        now = self.budget.hard.bytes
        allowed = max(now, self._allowed.get(worker.pid, 0)) if worker.busy else now
        self._allowed[worker.pid] = allowed
        return allowed

    def resource(self, name: str) -> ResourceReading | None:
        """One of the other resources, if it has been read."""
        return next((reading for reading in self.resources if reading.name == name), None)

    def spools_refused(self) -> str | None:
        """Why what has no room in memory cannot be held on the disk, in words."""
        if self._spools is None:
            return None
        if (why := self._reader.spools_refused) is not None:
            return why
        if (room := self._spools.disk_room()) is not None and room <= 0:
            return os.strerror(errno.ENOSPC)
        return self._spools.failure()

    def mapped(self) -> int:
        """The most file cache that one of the models' processes has mapped and in RAM."""
        return max((self.accounting.mapped(p.pid) for p in self._processes()), default=0)

    def missing(self) -> str:
        """How much more memory the models' mapped pages would need, in words; empty where no model
        is loaded."""
        reports = [server.report() for server in self._members.live_servers]
        if not reports:
            return ""
        resident = self.mapped()
        mapped = sum(report.get("mapped_bytes") or 0 for report in reports)
        usual = sum(report.get("working_set_bytes") or 0 for report in reports)
        most = max(0, mapped - resident)
        if usual > resident:
            return f"about {in_units(usual - resident)} more memory, at most {in_units(most)}"
        return f"at most {in_units(most)} more memory"

    def situation(self, left: int) -> Situation:
        """For the policy."""
        accounting = self.accounting
        own = {process.pid for process in self._processes()}
        return Situation(
            time.monotonic(),
            left,
            self.limits,
            self.budget,
            tuple(
                WorkerView(
                    w.pid,
                    w.busy,
                    w.state is WorkerState.LEAVING,
                    accounting.growth(w.pid),
                    accounting.kept(w.pid),
                    accounting.rate(w.pid),
                    self.replaceable(w),
                    self.stream_allowance(w),
                    self._hard_budget(w),
                    self._threads.get(w.pid, 1) if w.in_force else 1,
                )
                for w in self._members.workers
                if w.running
            ),
            tuple(
                LoadView(
                    server.pid,
                    sum(accounting.kept(pid) for pid in self._tree(server)),
                    sum(accounting.rate(pid) for pid in self._tree(server)),
                )
                for server in self._members.servers
                if not server.loaded.done()
            ),
            tuple(
                HelperView(pid, accounting.kept(pid)) for pid in self._helpers - own - self._ending
            ),
            self.meter.waiting(),
        )

    def _tree(self, server: ForkServerHandle) -> tuple[int, ...]:
        return (server.pid, *self._below.get(server.pid, ()))

    def moment(self, level: Level) -> Moment:
        """For the history."""
        roles = {worker.pid: "worker" for worker in self._members.workers}
        roles |= {server.pid: "fork server" for server in self._members.servers}
        roles[os.getpid()] = "supervisor"
        accounting = self.accounting
        return Moment(
            time.time(),
            level,
            self.left,
            self.used(),
            self.tightest().name,
            tuple(
                ProcessMoment(
                    pid,
                    roles.get(pid, "helper"),
                    accounting.rss(pid) or 0,
                    accounting.kept(pid),
                    accounting.growth(pid),
                )
                for pid in accounting.known()
            ),
        )

    # --- taking readings in ---------------------------------------------------------------------

    def _processes(self) -> list[ForkServerHandle | WorkerHandle]:
        """Those that run."""
        processes: list[ForkServerHandle | WorkerHandle] = [
            *self._members.servers,
            *self._members.workers,
        ]
        return [process for process in processes if process.running]

    def replaceable(self, worker: WorkerHandle) -> bool:
        """There is a fork server to make another for it."""
        member = self._members.of(worker)
        return member is not None and member.lifecycle.live_server() is not None

    def helper_ended(self, pid: int) -> None:
        """It was told to: nothing more can be had of it."""
        self._ending.add(pid)

    def _spools_in_memory(self) -> dict[int, int]:
        """Bytes of the input of each worker's job, by pid."""
        found = ((w.pid, w.job.spool) for w in self._members.workers if w.job is not None)
        return {pid: s.size for pid, s in found if isinstance(s, Spool) and s.in_memory}

    def _loading(self) -> bool:
        return any(not server.loaded.done() for server in self._members.servers)

    def _busy(self) -> bool:
        return any(worker.busy for worker in self._members.workers)

    def _take_resources(self, resources: tuple[ResourceReading, ...]) -> None:
        self.resources = resources
        disk = self.resource("disk")
        if self._spools is not None and disk is not None:
            self._spools.note_disk(disk.free - disk_reserve(disk.limit))

    def _take(self, reading: FullReading, spools: dict[int, int]) -> None:
        now = reading.memory.time
        born = {worker.pid: worker.born_bytes for worker in self._members.workers}
        families = {worker.pid: worker.server.pid for worker in self._members.workers}
        families |= {pid: server for server, below in self._below.items() for pid in below}
        kept = {p.pid: p.kept_beside(spools.get(p.pid, 0)) for p in reading.processes}
        self.accounting.keep_only(kept)
        for process in reading.processes:
            pid, spool = process.pid, spools.get(process.pid, 0)
            born_kept = born.get(pid, 0)
            if pid in born and not born_kept:
                born_kept = kept[pid]  # just forked, and not heard of yet: all of it is shared
            self.accounting.take(now, process, born_kept, family=families.get(pid, 0), spool=spool)
        if reading.exact is not None:
            living = {server.pid for server in self._members.servers if server.running}
            self.accounting.take_exact(reading.exact, kept, spools, living)
        faults = {process.pid: process.major_faults for process in reading.processes}
        self._threads = {process.pid: process.threads for process in reading.processes}
        work = [
            WorkReading(
                worker.pid, worker.worked_s, reading.ran.get(worker.pid), faults[worker.pid]
            )
            for worker in self._members.workers
            if worker.pid in faults
        ]
        self.meter.take(now, work, reading.memory.refaults)
        self._learn_of_streams()
        self.reading = reading.memory
        # What was looked at since the reading counts as growth since then.
        self._kept_at_reading = sum(kept[pid] for pid in self.accounting.known())
        self._keep_counters(usage_files(reading.memory))
        self._at_reading = self._look_around()
        self._limit_files = limit_files(reading.memory)
        self._limits_at_reading = [read_file(path) for path in self._limit_files]

    def _learn_of_streams(self) -> None:
        workers = self._members.workers
        there = {worker.pid for worker in workers}
        self._without_streams = {p: g for p, g in self._without_streams.items() if p in there}
        self._allowed = {pid: hard for pid, hard in self._allowed.items() if pid in there}
        for worker in workers:
            if not worker.streams:
                self._without_streams[worker.pid] = self.accounting.growth(worker.pid)
            elif not worker.ending and (member := self._members.of(worker)) is not None:
                member.stream_need.learn(self._grown_by_streams(worker), len(worker.streams))

    def _set_limits(self) -> None:
        limits = find_limits(self.bounds(), self._settings)
        if self._limits is None or limits.limit != self._limits.limit:
            log.info(
                "guard.limits",
                limit_bytes=limits.limit.bytes,
                limit_is=limits.limit.reason,
                reserve_bytes=limits.reserve.bytes,
                reserve_is=limits.reserve.reason,
            )
        self._limits = limits
        serving = tuple(server.pid for server in self._members.live_servers)
        if not serving:
            return
        # At once, and again when it is known exactly what the model takes.
        exact = not self.accounting.outdated
        basis = (serving, limits.limit.bytes, exact)
        shared = max(self.accounting.kept(pid) for pid in serving)
        left = self._left_now() + self.growths()
        budget = find_budget(self._settings, left, self._members.slots, shared)
        before = self.budget.growth.bytes
        moved = abs(budget.growth.bytes - before) > before * _NOTABLE_CHANGE
        # Others in the machine or the cgroup come and go: what there is for each changes with them.
        if self._budget_for != basis or moved:
            self._budget_for = basis
            self.budget = budget
            if exact and self._budget_logged != budget.growth.bytes:
                self._budget_logged = budget.growth.bytes
                self._log_budget()

    def _log_budget(self) -> None:
        budget = self.budget
        log.info(
            "guard.budget",
            budget_bytes=budget.growth.bytes,
            budget_is=budget.growth.reason,
            hard_budget_bytes=budget.hard.bytes,
            max_rss_bytes=budget.max_rss.bytes if budget.max_rss else None,
        )

    def _left_now(self) -> int:
        return _left(self.tightest()) - self.limits.reserve.bytes


def _left(bound: Bound) -> int:
    return bound.limit - bound.used
