"""Readings of our processes and of their limits, and quick looks in between.

Readings that take more than microseconds are made in a thread of their own. A look reads one
counter for each process, and the kernel's figure of available memory.
"""

import asyncio
import contextlib
import errno
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from supervisor.deaths.kernel_oom import OomEvidence
from supervisor.guard.accounting import Accounting
from supervisor.guard.budgets import Budgets
from supervisor.guard.limits import bounds_of
from supervisor.guard.members import Members
from supervisor.guard.polling import FASTEST_GROWTH, Polling
from supervisor.guard.reader import FullReading, Reader
from supervisor.guard.refusal import disk_reserve
from supervisor.guard.starvation import WaitingMeter, WorkReading
from supervisor.readings.files import KernelFile, read_file
from supervisor.readings.memory import (
    MEMINFO,
    Bound,
    MemoryReading,
    available_in,
    limit_files,
    usage_files,
)
from supervisor.readings.resources import ResourceReading
from supervisor.settings import MemorySettings
from supervisor.spool import Spool, SpoolStore

_LOOK_AROUND_S = 0.05
_LIMITS_EVERY_S = 0.5
_LEAST_UNEXPLAINED = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Looked:
    """Findings of the last look, in bytes."""

    available: int
    charged: int


class Observer:
    """Observer of memory. Call `read` once before anything else, and `close` at the end."""

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
        evidence.ours = lambda: [process.pid for process in members.processes]
        self._reap_strangers = reap_strangers
        self._spools = spools
        self.left_alone: tuple[int, ...] = ()
        """Processes below us that, with all below them, have a guard of their own."""
        self.elsewhere: Callable[[], int] = lambda: 0
        """Bytes of another process that is about to end."""
        self.accounting = Accounting()
        self.budgets = Budgets(settings, members, self.accounting)
        self.polling = Polling(members, self.accounting)
        self.meter = WaitingMeter()
        self.reading: MemoryReading | None = None
        """The last full reading."""
        self.resources: tuple[ResourceReading, ...] = ()
        self.threads: dict[int, int] = {}
        """Number of threads of each process, by pid."""
        self.below: dict[int, frozenset[int]] = {}
        """Processes that the models' loaders have started, by the pid of their fork servers."""
        self.helpers: set[int] = set()
        """Processes below us at the last full reading that were neither fork servers nor workers,
        without those that were ended since."""
        self._ending: set[int] = set()
        """Helpers that were ended and have not gone yet."""
        self._zombies: frozenset[int] = frozenset()
        self.orphans: frozenset[int] = frozenset()
        """Processes below us that ended a while ago and were not reaped."""
        self._bounds: tuple[Bound, ...] = ()
        """Bounds at the last reading."""
        self._held_at_reading = 0
        self._looked = self._at_reading = _Looked(0, 0)
        self._looked_around_at = -1e9
        self._limit_files: list[Path] = []
        self._limits_at_reading: list[bytes] = []
        self._limits_looked_at = 0.0
        self._available = KernelFile(MEMINFO)
        self._counters: dict[Path, KernelFile] = {}
        """Counters of memory charged to the cgroups that have a limit."""
        self._reader = Reader(spools.limits.directory if spools else None)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guard")

    def close(self) -> None:
        """Stop the thread and close the files."""
        self._thread.shutdown(wait=True)
        self._available.close()
        self.accounting.close()
        self._keep_counters(())

    # --- looking --------------------------------------------------------------------------------

    async def read(self) -> None:
        """Make a full reading, in the thread."""
        now = time.monotonic()
        exact = self.polling.exact_due(now)
        servers = [server.pid for server in self._members.servers if server.running]
        workers = [worker.pid for worker in self._members.workers if worker.running]
        helpers = [helper.pid for helper in self._members.helpers]
        spools = self._spools_in_memory()
        read = functools.partial(
            self._reader.read, servers, workers, helpers, exact=exact, but=self.left_alone
        )
        reading = await asyncio.get_running_loop().run_in_executor(self._thread, read)
        for helper in self._members.helpers:
            helper.seen_below(now, reading.below.get(helper.pid, frozenset()))
        self.below = {pid: reading.below[pid] for pid in servers}
        if exact:
            self.polling.exact_read(now, reading.exact_cost_s)
        if reading.resources is not None:
            self._take_resources(reading.resources)
            # A waiter of this program reaps a process in the turn of the loop in which it ends. But
            # other code in this process may wait for its children at any time.
            zombies = reading.zombies if self._reap_strangers else reading.zombies_of_ours
            self.orphans = self._zombies & zombies
            self._zombies = zombies
        self._evidence.look()
        ours = {os.getpid(), *servers, *workers, *(p for ps in self.below.values() for p in ps)}
        found = {process.pid for process in reading.processes} - ours
        self._ending &= found
        self.helpers = found - self._ending
        for pid, size in self._spools_in_memory().items():
            spools[pid] = max(size, spools.get(pid, 0))  # whichever the reading has counted
        self._take(reading, spools)
        self._bounds = self.bounds()
        self.budgets.update(self._bounds)

    def interval(self) -> float:
        """Return the seconds until the next look."""
        return self.polling.interval(self._bounds)

    def look(self) -> tuple[int, int]:
        """Look quickly: return how much our processes have grown since the last reading, and the
        bytes that are left now."""
        now = time.monotonic()
        self.accounting.look(now)
        grown = self.accounting.total_unreclaimable() - self._held_at_reading
        # Memory of other processes is looked at less often, unless they could use it up by then.
        far = self._looked.available > _LOOK_AROUND_S * FASTEST_GROWTH
        if not far or now - self._looked_around_at >= _LOOK_AROUND_S:
            self._looked, self._looked_around_at = self._look_around(), now
        available = self._looked.available - self.budgets.limits.reserve.bytes
        return grown, min(self.budgets.left - max(0, grown), available)

    def _look_around(self) -> _Looked:
        charged = sum(int(counter.read()) for counter in self._counters.values())
        return _Looked(available_in(self._available.read()), charged)

    def _keep_counters(self, paths: Sequence[Path]) -> None:
        for path in self._counters.keys() - set(paths):
            self._counters.pop(path).close()
        for path in paths:
            if path not in self._counters:
                with contextlib.suppress(OSError):
                    self._counters[path] = KernelFile(path)

    def outdated(self, grown: int) -> bool:
        """Return whether a full reading is due at once: a process has no account, a limit was
        changed, or other processes in our cgroups have taken or cached much."""
        if any(process.pid not in self.accounting.known() for process in self._members.processes):
            return True
        if self.accounting.uncertain() or self._limits_moved():
            return True
        charged = self._looked.charged - self._at_reading.charged
        taken = self._at_reading.available - self._looked.available
        if charged - grown > max(0, self.budgets.left) / 2 or (
            taken - grown > max(_LEAST_UNEXPLAINED, self.budgets.left / 4)
            and not self.polling.at_rest()
        ):
            self.polling.unexplained = True
        return self.polling.unexplained

    def _limits_moved(self) -> bool:
        """Return whether a cgroup's limit was changed. This costs too much to ask at every look."""
        now = time.monotonic()
        if now - self._limits_looked_at < _LIMITS_EVERY_S:
            return False
        self._limits_looked_at = now
        with contextlib.suppress(OSError):  # a file that cannot be read has not moved
            return [read_file(path) for path in self._limit_files] != self._limits_at_reading
        return False

    def run(self, function: Callable[[], None]) -> None:
        """Run a function in the thread, when it is free."""
        asyncio.get_running_loop().run_in_executor(self._thread, function)

    # --- what is known --------------------------------------------------------------------------

    def bounds(self) -> tuple[Bound, ...]:
        """Return everything that bounds our memory."""
        assert self.reading is not None
        return bounds_of(self.reading, self._settings, self.used() + self.elsewhere())

    def tightest(self) -> Bound:
        """Return the bound with the least left."""
        return min(self.bounds(), key=lambda bound: bound.left)

    def used(self) -> int:
        """Return the unreclaimable memory of our processes and spools, with shared memory counted
        once."""
        return self.accounting.used() + (self._spools.memory_bytes if self._spools else 0)

    def resource(self, name: str) -> ResourceReading | None:
        """Return another resource, if it has been read."""
        return next((reading for reading in self.resources if reading.name == name), None)

    def spools_refused(self) -> str | None:
        """Explain why an upload that has no room in memory cannot be held on the disk; return None
        if it can."""
        if self._spools is None:
            return None
        if (why := self._reader.spools_refused) is not None:
            return why
        if (room := self._spools.disk_room()) is not None and room <= 0:
            return os.strerror(errno.ENOSPC)
        return self._spools.failure()

    # --- taking readings in ---------------------------------------------------------------------

    def helper_ended(self, pid: int) -> None:
        """Forget a helper that was ended: it has no more memory to free."""
        self._ending.add(pid)
        self.helpers.discard(pid)

    def _spools_in_memory(self) -> dict[int, int]:
        """Return the bytes of the input of each worker's job that are in memory, by pid."""
        found = ((w.pid, w.job.spool) for w in self._members.workers if w.job is not None)
        return {pid: s.size for pid, s in found if isinstance(s, Spool) and s.in_memory}

    def _take_resources(self, resources: tuple[ResourceReading, ...]) -> None:
        self.resources = resources
        disk = self.resource("disk")
        if self._spools is not None and disk is not None:
            self._spools.note_disk(disk.free - disk_reserve(disk.limit))

    def _take(self, reading: FullReading, spools: dict[int, int]) -> None:
        now = reading.memory.time
        born = {worker.pid: worker.born_bytes for worker in self._members.workers}
        families = {worker.pid: worker.server.pid for worker in self._members.workers}
        families |= {pid: server for server, below in self.below.items() for pid in below}
        held = {p.pid: p.unreclaimable_beside(spools.get(p.pid, 0)) for p in reading.processes}
        self.accounting.keep_only(held)
        for process in reading.processes:
            pid, spool = process.pid, spools.get(process.pid, 0)
            family = families.get(pid, 0)
            born_with = born.get(pid, 0) or inherited(pid, family, held)
            self.accounting.take(now, process, born_with, family=family, spool=spool)
        if reading.exact is not None:
            living = {server.pid for server in self._members.servers if server.running}
            self.accounting.take_exact(reading.exact, held, spools, living)
        faults = {process.pid: process.major_faults for process in reading.processes}
        self.threads = {process.pid: process.threads for process in reading.processes}
        work = [
            WorkReading(
                worker.pid, worker.worked_s, reading.ran.get(worker.pid), faults[worker.pid]
            )
            for worker in self._members.workers
            if worker.pid in faults
        ]
        self.meter.take(now, work, reading.memory.refaults)
        self.budgets.learn_of_streams()
        self.reading = reading.memory
        # Looks made since the reading count as growth since then.
        self._held_at_reading = sum(held[pid] for pid in self.accounting.known())
        self._keep_counters(usage_files(reading.memory))
        self._at_reading = self._look_around()
        self._limit_files = limit_files(reading.memory)
        self._limits_at_reading = [read_file(path) for path in self._limit_files]


def inherited(pid: int, family: int, held: Mapping[int, int]) -> int:
    """Return the bytes that a process shares with its fork server `family` (0: it has none), if it
    has not reported them: it was just forked and is not ready, or not even announced.

    A process that a model's loader has started counts so, too, although it may share nothing: until
    the exact reading that a new process brings about, a second later. Only the setting
    `memory.limit` can be exceeded meanwhile, by what the process held at its first reading: other
    limits are compared with the kernel's own figures, and growth counts at once."""
    return min(held[pid], held.get(family, held[pid])) if family else 0
