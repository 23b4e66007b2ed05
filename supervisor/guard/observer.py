"""Readings of our processes and of what bounds them, and quick looks in between.

Readings that take more than microseconds are made in a thread of their own. A look reads one
counter a process, and what the kernel calls available.
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
        evidence.ours = lambda: [process.pid for process in members.processes]
        self._reap_strangers = reap_strangers
        self._spools = spools
        self.left_alone: tuple[int, ...] = ()
        """Processes below us that, with all below them, are looked after elsewhere."""
        self.elsewhere: Callable[[], int] = lambda: 0
        """Bytes that a process holds which is to make room for us."""
        self.accounting = Accounting()
        self.budgets = Budgets(settings, members, self.accounting)
        self.polling = Polling(members, self.accounting)
        self.meter = WaitingMeter()
        self.reading: MemoryReading | None = None
        """The last whole one."""
        self.resources: tuple[ResourceReading, ...] = ()
        self.threads: dict[int, int] = {}
        """By pid, how many each process has."""
        self.below: dict[int, frozenset[int]] = {}
        """What the models' loaders have started, by the pid of their fork servers."""
        self.helpers: set[int] = set()
        """What was below us at the last whole reading and was no fork server or worker then; but
        for those that were ended since."""
        self._ending: set[int] = set()
        """Helpers that were ended, for as long as they are there."""
        self._zombies: frozenset[int] = frozenset()
        self.orphans: frozenset[int] = frozenset()
        """Processes below us that ended a while ago, and that nobody has asked how."""
        self._bounds: tuple[Bound, ...] = ()
        """At the last reading."""
        self._held_at_reading = 0
        self._looked = self._at_reading = _Looked(0, 0)
        self._looked_around_at = -1e9
        self._limit_files: list[Path] = []
        self._limits_at_reading: list[bytes] = []
        self._limits_looked_at = 0.0
        self._available = KernelFile(MEMINFO)
        self._counters: dict[Path, KernelFile] = {}
        """Of what is charged to the cgroups that have a limit."""
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
        """Make a whole reading, in the thread."""
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
            # Whoever waits for a process asks in the same turn of the loop in which it ends. But
            # a child of others in this process may be waited for at any time.
            zombies = reading.zombies if self._reap_strangers else reading.zombies_of_ours
            self.orphans = self._zombies & zombies
            self._zombies = zombies
        self._evidence.look()
        ours = {os.getpid(), *servers, *workers, *(p for ps in self.below.values() for p in ps)}
        found = {process.pid for process in reading.processes} - ours
        self._ending &= found
        self.helpers = found - self._ending
        for pid, size in self._spools_in_memory().items():
            spools[pid] = max(size, spools.get(pid, 0))  # whichever the reading has caught
        self._take(reading, spools)
        self._bounds = self.bounds()
        self.budgets.update(self._bounds)

    def interval(self) -> float:
        """Seconds until the next look."""
        return self.polling.interval(self._bounds)

    def look(self) -> tuple[int, int]:
        """A quick look: by how much our processes have grown since the last reading, and the
        bytes that are left now."""
        now = time.monotonic()
        self.accounting.look(now)
        grown = self.accounting.total_unreclaimable() - self._held_at_reading
        # What others take is looked at less often, unless they could use it up by then.
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
        """A whole reading is due at once: there is a process without an account, a limit
        was set anew, or somebody else in our cgroups has taken or cached much."""
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
        """Tell whether somebody has set a cgroup's limit anew. This costs too much to ask at every
        look."""
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

    def bounds(self) -> tuple[Bound, ...]:
        """Everything that bounds our memory."""
        assert self.reading is not None
        return bounds_of(self.reading, self._settings, self.used() + self.elsewhere())

    def tightest(self) -> Bound:
        """Return the bound with the least left."""
        return min(self.bounds(), key=lambda bound: bound.left)

    def used(self) -> int:
        """Return what our processes and spools hold and cannot drop, counted once."""
        return self.accounting.used() + (self._spools.usage().memory_bytes if self._spools else 0)

    def resource(self, name: str) -> ResourceReading | None:
        """Return another resource, if it has been read."""
        return next((reading for reading in self.resources if reading.name == name), None)

    def spools_refused(self) -> str | None:
        """Explain why what has no room in memory cannot be held on the disk, in words."""
        if self._spools is None:
            return None
        if (why := self._reader.spools_refused) is not None:
            return why
        if (room := self._spools.disk_room()) is not None and room <= 0:
            return os.strerror(errno.ENOSPC)
        return self._spools.failure()

    # --- taking readings in ---------------------------------------------------------------------

    def helper_ended(self, pid: int) -> None:
        """Forget a helper that was ended: nothing more can be had of it."""
        self._ending.add(pid)
        self.helpers.discard(pid)

    def _spools_in_memory(self) -> dict[int, int]:
        """Bytes of the input of each worker's job, by pid."""
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
            born_with = born.get(pid, 0)
            if pid in born and not born_with:
                born_with = held[pid]  # just forked, and not ready yet: all of it is shared
            self.accounting.take(now, process, born_with, family=families.get(pid, 0), spool=spool)
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
        # What was looked at since the reading counts as growth since then.
        self._held_at_reading = sum(held[pid] for pid in self.accounting.known())
        self._keep_counters(usage_files(reading.memory))
        self._at_reading = self._look_around()
        self._limit_files = limit_files(reading.memory)
        self._limits_at_reading = [read_file(path) for path in self._limit_files]
