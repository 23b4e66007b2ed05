"""Accounts of the memory of each process: growth, its rate, and what the whole tree uses.

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
class Account:
    """Account of one process, in bytes and bytes per second."""

    statm_fd: int
    family: int
    born_with: int
    """Memory that it held when it was forked, all of it shared; 0 for a process that has no parent
    here."""
    time: float
    unreclaimable: int
    """Memory that it cannot drop, shared or not."""
    rss: int | None
    """Resident memory; None until it has been read."""
    swap: int = 0
    mapped: int = 0
    """File cache that it had mapped and resident, at the last reading."""
    shared_memory: int = 0
    """Shared memory that it maps beside its spool."""
    anonymous: int = 0
    """Anonymous memory that was resident at the last full reading."""
    rate: float = 0.0
    """The slower of its last two rates."""
    last_rate: float = 0.0
    own: tuple[int, int] | None = None
    """Private and unreclaimable memory, at the last exact reading while its parent lived."""
    share: tuple[int, int] | None = None
    """Proportional and unreclaimable memory, at the last exact reading."""

    @property
    def growth(self) -> int:
        """Bytes that it has allocated since it was forked."""
        if self.own is not None:
            private, then = self.own
            return max(0, private + self.unreclaimable - then)
        return max(0, self.unreclaimable - self.born_with)

    def move_to(self, time: float, unreclaimable: int) -> None:
        if time > self.time:
            rate = (unreclaimable - self.unreclaimable) / (time - self.time)
            # One huge page between two looks is not a leak: memory that leaks grows twice in a row.
            self.rate, self.last_rate = min(rate, self.last_rate), rate
            self.time = time
        self.unreclaimable = unreclaimable


_NO_ACCOUNT = Account(-1, 0, 0, 0.0, 0, None)


class Accounting:
    """Accounts by pid, in bytes; times in seconds of CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._accounts: dict[int, Account] = {}
        self._refreshed = True
        self._looked_at = 0.0
        self._left_shared: dict[int, int] = {}
        """By family, shared memory that was counted for members that have ended since the last
        exact readings, and that the others still share."""

    def known(self) -> Collection[int]:
        """Return the pids that have an account."""
        return self._accounts.keys()

    def items(self) -> Collection[tuple[int, Account]]:
        """Return pids with their accounts."""
        return self._accounts.items()

    def of(self, pid: int) -> Account:
        """Return the account of `pid`; an empty one if there is none."""
        return self._accounts.get(pid, _NO_ACCOUNT)

    @property
    def outdated(self) -> bool:
        """True if processes have come or gone since the last exact readings."""
        return not self._refreshed

    def keep_only(self, pids: Collection[int]) -> None:
        """Close the accounts of all other processes."""
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
        born_with: int = 0,
        *,
        family: int = 0,
        spool: int = 0,
    ) -> None:
        """Record a reading of one process. `born_with` and `family` (pid of the fork server) count
        for its first reading; `spool`: bytes of its job's input that are in memory."""
        unreclaimable = reading.unreclaimable_beside(spool)
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
            account = Account(
                fd, family or reading.pid, born_with, time, unreclaimable, reading.rss
            )
            self._accounts[reading.pid] = account
            self._refreshed = False
        account.swap, account.mapped = reading.swap, reading.mapped
        account.shared_memory = max(0, reading.shared_memory - spool)
        account.anonymous = reading.anonymous
        if time > account.time:  # otherwise a look was made since
            account.move_to(time, unreclaimable)
            account.rss = reading.rss

    def take_exact(
        self,
        readings: Iterable[PreciseMemory],
        unreclaimable: Mapping[int, int],
        spools: Mapping[int, int],
        parents: Collection[int],
    ) -> None:
        """Record exact readings of all processes, the `unreclaimable` memory of each at that time,
        the `spools` of their jobs in memory, and the fork servers that live.

        If a worker's parent is dead, the worker may be the last to hold what they shared: that is
        private then, but still not growth. Its earlier growth is carried forward.
        """
        for reading in readings:
            if (account := self._accounts.get(reading.pid)) is None:
                continue
            shared = max(0, reading.pss_shared - spools.get(reading.pid, 0))
            then = unreclaimable[reading.pid]
            account.share = (reading.pss_anonymous + reading.swap_pss + shared, then)
            if account.family == reading.pid or account.family in parents:
                account.own = (reading.private_anonymous + shared, then)
        self._refreshed = True
        self._left_shared.clear()

    def look(self, time: float) -> None:
        """Look at resident memory between two readings, a microsecond per process. Not twice in a
        short time: the kernel's counters move in batches, and would give no rate."""
        if time - self._looked_at < _AT_ONCE_S:
            return
        self._looked_at = time
        for account in self._accounts.values():
            if (seen := quick_look(account.statm_fd)) is not None:
                _move(account, time, *seen)

    def look_at(self, pid: int, time: float) -> None:
        """Look at one process."""
        account = self._accounts.get(pid)
        if account is not None and (seen := quick_look(account.statm_fd)) is not None:
            _move(account, time, *seen)

    def uncertain(self) -> bool:
        """Return whether a process with memory in swap has moved since the last full reading: only
        another reading tells whether it has grown."""
        swapped = [account for account in self._accounts.values() if account.swap]
        looks = ((account, quick_look(account.statm_fd)) for account in swapped)
        return any(seen and abs(seen[1] - a.anonymous) > _NOTABLE for a, seen in looks)

    def total_unreclaimable(self) -> int:
        """Return the sum over all processes, with shared memory counted in each: for differences
        only."""
        return sum(account.unreclaimable for account in self._accounts.values())

    def total_rate(self) -> float:
        """Return the bytes per second by which all growing processes together have grown, at the
        last look."""
        return sum(max(0.0, account.last_rate) for account in self._accounts.values())

    def used(self) -> int:
        """Return the unreclaimable memory of the whole tree, with shared memory counted once."""
        total = sum(self._left_shared.values())
        for account in self._accounts.values():
            if account.share is None:
                total += max(0, account.unreclaimable - account.born_with)
            else:
                proportional, then = account.share
                total += max(0, proportional + account.unreclaimable - then)
        return total

    def close(self) -> None:
        """Close all accounts."""
        self.keep_only(())


def _move(account: Account, time: float, rss: int, anonymous: int) -> None:
    account.rss = rss
    # Memory may have come back from swap meanwhile: it is not counted twice.
    unreclaimable = anonymous + account.shared_memory
    account.move_to(
        time, max(account.unreclaimable, unreclaimable) if account.swap else unreclaimable
    )
