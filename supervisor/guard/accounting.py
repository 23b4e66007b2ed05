"""What each process of the tree holds of its own, kept between readings: growth, its rate, and the
tree's memory counted once."""

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from supervisor.readings.processes import PreciseMemory, ProcessMemory, quick_look


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
    rate: float = 0.0
    exact: tuple[int, int, int] | None = None
    """At the last exact reading: private, proportional, and kept."""

    def move_to(self, time: float, kept: int) -> None:
        if time > self.time:
            self.rate = (kept - self.kept) / (time - self.time)
            self.time = time
        self.kept = kept


class Accounting:
    """Accounts by pid. Bytes, and seconds of CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._accounts: dict[int, _Account] = {}
        self._refreshed = True

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
            os.close(self._accounts.pop(pid).statm_fd)
            self._refreshed = False

    def take(self, time: float, reading: ProcessMemory, born_kept: int = 0) -> None:
        """A reading of one process; `born_kept` counts for the first."""
        account = self._accounts.get(reading.pid)
        if account is None:
            fd = -1
            with contextlib.suppress(OSError):
                fd = os.open(f"/proc/{reading.pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
            if fd < 0:
                return  # it has ended since it was read
            account = _Account(
                fd, born_kept, time, reading.kept, reading.rss, reading.swap, reading.mapped
            )
            self._accounts[reading.pid] = account
            self._refreshed = False
            return
        account.swap, account.mapped = reading.swap, reading.mapped
        if time > account.time:  # else somebody has looked since
            account.move_to(time, reading.kept)
            account.rss = reading.rss

    def take_exact(self, readings: Iterable[PreciseMemory], kept: Mapping[int, int]) -> None:
        """Exact readings of everyone there is, and what each kept when they were made."""
        for reading in readings:
            if account := self._accounts.get(reading.pid):
                proportional = reading.pss_anonymous + reading.swap_pss
                account.exact = (reading.private_anonymous, proportional, kept[reading.pid])
        self._refreshed = True

    def look(self, time: float) -> None:
        """Between two readings: what is in RAM, a microsecond each."""
        for account in self._accounts.values():
            seen = quick_look(account.statm_fd)
            if seen is not None:
                account.rss, anonymous = seen
                account.move_to(time, anonymous + account.swap)

    def growth(self, pid: int) -> int:
        """Its own, since it was born."""
        account = self._accounts.get(pid)
        if account is None:
            return 0
        if account.exact is not None:
            private, _, then = account.exact
            return max(0, private + account.kept - then)
        return max(0, account.kept - account.born_kept)

    def kept(self, pid: int) -> int:
        """What it holds and cannot drop, shared or not."""
        account = self._accounts.get(pid)
        return account.kept if account else 0

    def rss(self, pid: int) -> int:
        """All that it has in RAM."""
        account = self._accounts.get(pid)
        return account.rss if account else 0

    def total_kept(self) -> int:
        """Of all; what is shared is counted as often as it is shared: for differences only."""
        return sum(account.kept for account in self._accounts.values())

    def mapped(self) -> int:
        """The most file cache that one of the processes has mapped and in RAM."""
        return max((account.mapped for account in self._accounts.values()), default=0)

    def rate(self, pid: int) -> float:
        """Bytes a second between its last two readings."""
        account = self._accounts.get(pid)
        return account.rate if account else 0.0

    def used(self) -> int:
        """What the whole tree holds and cannot drop, counted once."""
        total = 0
        for account in self._accounts.values():
            if account.exact is None:
                total += max(0, account.kept - account.born_kept)
            else:
                _, proportional, then = account.exact
                total += max(0, proportional + account.kept - then)
        return total

    def close(self) -> None:
        """Close every account."""
        self.keep_only(())
