"""Full readings, made in the guard's thread: memory, processes, and other resources."""

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.readings.memory import MemoryReader, MemoryReading
from supervisor.readings.processes import (
    PreciseMemory,
    ProcessMemory,
    descendants,
    read_precise,
    read_process,
    read_ran,
    read_standing,
)
from supervisor.readings.resources import (
    ResourceReading,
    read_descriptors,
    read_disk,
    read_processes,
    unwritable,
)

_RESOURCES_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class FullReading:
    """Full reading, as made in the thread."""

    memory: MemoryReading
    processes: tuple[ProcessMemory, ...]
    exact: tuple[PreciseMemory, ...] | None
    """Exact readings of some of `processes`, made just after them."""
    exact_cost_s: float
    resources: tuple[ResourceReading, ...] | None
    zombies: frozenset[int]
    zombies_of_ours: frozenset[int]
    """Zombies that were seen below a fork server, a worker or a helper before."""
    below: Mapping[int, frozenset[int]]
    """Processes below each fork server and helper."""
    ran: Mapping[int, float]
    """Seconds that each fork server and worker has run or waited for a processor, where known."""


class Reader:
    """Reader that lives in the guard's thread. `spool_directory`: directory of the spools, whose
    disk is read, too."""

    def __init__(self, spool_directory: Path | None) -> None:
        self._memory = MemoryReader()
        self._spool_directory = spool_directory
        self.spools_refused: str | None = None
        """Reason why nothing can be stored there, as of the last reading; None if something can."""
        self._helpers: list[int] = []
        self._slow_at = -1e9
        self._seen_below: frozenset[int] = frozenset()

    def read(
        self,
        servers: Collection[int],
        workers: Collection[int],
        helpers: Collection[int],
        *,
        exact: bool,
        but: Collection[int] = (),
    ) -> FullReading:
        """Read the fork servers and workers, the processes below the servers, and all others found
        below us in the last second, `helpers` or not. `but`: processes to leave out, with all below
        them. Raises `OSError` if something cannot be known."""
        now, me = time.monotonic(), os.getpid()
        known = (*servers, *workers)
        below = {pid: frozenset(descendants(pid)) for pid in (*servers, *helpers)}
        resources, zombies = None, frozenset[int]()
        if now - self._slow_at > _RESOURCES_EVERY_S:
            self._slow_at = now
            zombies, self._helpers = self._others(me, {*known, *but}, servers)
            ours = {pid for parent in (*known, *helpers) for pid in descendants(parent)}
            there = {*zombies, *self._helpers, *ours}
            self._seen_below = frozenset((self._seen_below & there) | ours)
            disk = None
            if (directory := self._spool_directory) is not None:
                disk, self.spools_refused = read_disk(directory), unwritable(directory)
            resources = tuple(r for r in (disk, read_descriptors(), read_processes()) if r)
        started = [pid for server in servers for pid in below[server]]
        pids = list(dict.fromkeys([me, *known, *started, *self._helpers]))
        memory = self._memory.read()
        held = frozenset(workers)
        processes = tuple(p for pid in pids if (p := read_process(pid, held=pid in held)))
        began = time.thread_time()
        precise = tuple(e for p in processes if (e := read_precise(p.pid))) if exact else None
        cost_s = time.thread_time() - began
        ran = {pid: seconds for pid in known if (seconds := read_ran(pid)) is not None}
        return FullReading(
            memory,
            processes,
            precise,
            cost_s,
            resources,
            zombies,
            zombies & self._seen_below,
            below,
            ran,
        )

    def _others(
        self, me: int, but: Collection[int], servers: Collection[int]
    ) -> tuple[frozenset[int], list[int]]:
        """Return the other processes below us: the zombies, and the helpers. A process in the group
        of a fork server is a worker that is just being forked, and not a helper."""
        zombies, helpers = set(), []
        for pid in descendants(me, but):
            if (standing := read_standing(pid)) is None:
                continue
            is_zombie, group = standing
            if is_zombie:
                zombies.add(pid)
            elif group not in servers:
                helpers.append(pid)
        return frozenset(zombies), helpers
