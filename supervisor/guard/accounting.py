"""What each process of the tree holds of its own, kept between readings: growth, its rate, and the
tree's memory counted once.

Processes that share a model belong to one family: a fork server and its workers.
"""

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from supervisor.readings.processes import PreciseMemory, ProcessMemory, quick_look

_NOTABLE = 4 * 1024 * 1024
_AT_ONCE_S = 0.003


@dataclass(slots=True)
class _Account:
    statm_fd: int
    born_kept: int
    """What it held when it was born, all of it shared; 0 for one that has no parent here."""
    time: float
    kept: int
    rss: int
    swap: int
    mapped: int
    family: int
    shared_memory: int
    """What it maps of shared memory beside its spool."""
    anonymous: int
    """In RAM, at the last whole reading."""
    rate: float = 0.0
    last_rate: float = 0.0
    own: tuple[int, int] | None = None
    """At the last exact reading while its parent lived: private, and kept."""
    share: tuple[int, int] | None = None
    """At the last exact reading: proportional, and kept."""

    def move_to(self, time: float, kept: int) -> None:
        if time > self.time:
            rate = (kept - self.kept) / (time - self.time)
            # One huge page between two looks is no leak: what grows, grows twice in a row.
            self.rate, self.last_rate = min(rate, self.last_rate), rate
            self.time = time
        self.kept = kept


class Accounting:
    """Accounts by pid. Bytes, and seconds of CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._accounts: dict[int, _Account] = {}
        self._refreshed = True
        self._looked_at = 0.0
        self._left_shared: dict[int, int] = {}
        """By family, what members that have ended since the last exact readings had been counted
        for of memory that the others still share."""

    def known(self) -> Collection[int]:
        """The pids that have an account."""
        return self._accounts.keys()

    @property
    def outdated(self) -> bool:
        """Processes have come or gone since the last exact readings."""
        return not self._refreshed

    def keep_only(self, pids: Collection[int]) -> None:
        """Close the accounts of all others."""
        for pid in [pid for pid in self._accounts if pid not in pids]:
            self._close(pid)
        families = {account.family for account in self._accounts.values()}
        self._left_shared = {f: left for f, left in self._left_shared.items() if f in families}

    def _close(self, pid: int) -> None:
        account = self._accounts.pop(pid)
        os.close(account.statm_fd)
        self._refreshed = False
        if account.share is not None and account.own is not None:
            shared = max(0, account.share[0] - account.own[0])
            before = self._left_shared.get(account.family, 0)
            self._left_shared[account.family] = before + shared

    def take(
        self,
        time: float,
        reading: ProcessMemory,
        born_kept: int = 0,
        *,
        family: int = 0,
        spool: int = 0,
    ) -> None:
        """A reading of one process. For the first of it `born_kept` counts, and its family, the pid
        of the fork server; `spool`: the bytes of its job's input that are in memory."""
        kept = reading.kept_beside(spool)
        account = self._accounts.get(reading.pid)
        if account is not None and quick_look(account.statm_fd) is None:
            self._close(reading.pid)  # it was another process of the same number
            account = None
        if account is None:
            fd = -1
            with contextlib.suppress(OSError):
                fd = os.open(f"/proc/{reading.pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
            if fd < 0:
                return  # it has ended since it was read
            account = _Account(
                fd,
                born_kept,
                time,
                kept,
                reading.rss,
                reading.swap,
                reading.mapped,
                family or reading.pid,
                max(0, reading.shared_memory - spool),
                reading.anonymous,
            )
            self._accounts[reading.pid] = account
            self._refreshed = False
            return
        account.swap, account.mapped = reading.swap, reading.mapped
        account.shared_memory = max(0, reading.shared_memory - spool)
        account.anonymous = reading.anonymous
        if time > account.time:  # else somebody has looked since
            account.move_to(time, kept)
            account.rss = reading.rss

    def take_exact(
        self,
        readings: Iterable[PreciseMemory],
        kept: Mapping[int, int],
        spools: Mapping[int, int],
        parents: Collection[int],
    ) -> None:
        """Exact readings of everyone there is, and what each kept when they were made; the `spools`
        of their jobs in memory; and the fork servers that live.

        One whose parent is dead may be the last to hold what they shared: that is private then, and
        still nothing that it has grown by. What it held of its own before counts on.
        """
        for reading in readings:
            if (account := self._accounts.get(reading.pid)) is None:
                continue
            shared = max(0, reading.pss_shared - spools.get(reading.pid, 0))
            then = kept[reading.pid]
            account.share = (reading.pss_anonymous + reading.swap_pss + shared, then)
            if account.family == reading.pid or account.family in parents:
                account.own = (reading.private_anonymous + shared, then)
        self._refreshed = True
        self._left_shared.clear()

    def look(self, time: float) -> None:
        """Between two readings: what is in RAM, a microsecond each. Not again at once: the kernel's
        counters move in batches, and no rate could be told from so short a time."""
        if time - self._looked_at < _AT_ONCE_S:
            return
        self._looked_at = time
        for account in self._accounts.values():
            if (seen := quick_look(account.statm_fd)) is not None:
                _move(account, time, *seen)

    def look_at(self, pid: int, time: float) -> None:
        """The same of one process."""
        account = self._accounts.get(pid)
        if account is not None and (seen := quick_look(account.statm_fd)) is not None:
            _move(account, time, *seen)

    def uncertain(self) -> bool:
        """Somebody with memory in swap has moved since the last whole reading: only another one
        tells whether it has grown."""
        swapped = [account for account in self._accounts.values() if account.swap]
        looks = ((account, quick_look(account.statm_fd)) for account in swapped)
        return any(seen and abs(seen[1] - a.anonymous) > _NOTABLE for a, seen in looks)

    def growth(self, pid: int) -> int:
        """Its own, since it was born."""
        account = self._accounts.get(pid)
        if account is None:
            return 0
        if account.own is not None:
            private, then = account.own
            return max(0, private + account.kept - then)
        return max(0, account.kept - account.born_kept)

    def kept(self, pid: int) -> int:
        """What it holds and cannot drop, shared or not."""
        account = self._accounts.get(pid)
        return account.kept if account else 0

    def rss(self, pid: int) -> int | None:
        """All that it has in RAM; None until it has been read."""
        account = self._accounts.get(pid)
        return account.rss if account else None

    def total_kept(self) -> int:
        """Of all; what is shared is counted as often as it is shared: for differences only."""
        return sum(account.kept for account in self._accounts.values())

    def mapped(self, pid: int) -> int:
        """File cache that the process had mapped and in RAM, at the last reading."""
        account = self._accounts.get(pid)
        return account.mapped if account else 0

    def rate(self, pid: int) -> float:
        """Bytes a second: the slower of its last two moves."""
        account = self._accounts.get(pid)
        return account.rate if account else 0.0

    def total_rate(self) -> float:
        """Bytes a second by which all that grow have grown together, at the last look."""
        return sum(max(0.0, account.last_rate) for account in self._accounts.values())

    def used(self) -> int:
        """What the whole tree holds and cannot drop, counted once."""
        total = sum(self._left_shared.values())
        for account in self._accounts.values():
            if account.share is None:
                total += max(0, account.kept - account.born_kept)
            else:
                proportional, then = account.share
                total += max(0, proportional + account.kept - then)
        return total

    def close(self) -> None:
        """Close every account."""
        self.keep_only(())


def _move(account: _Account, time: float, rss: int, anonymous: int) -> None:
    account.rss = rss
    # What was in swap may have come back meanwhile: it is not to count twice.
    kept = anonymous + account.shared_memory
    account.move_to(time, max(account.kept, kept) if account.swap else kept)
