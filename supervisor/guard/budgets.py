"""Limits of memory and the budgets of workers, computed with every reading."""

from collections.abc import Iterable

from supervisor.guard.accounting import Accounting
from supervisor.guard.limits import Limits, find_budget, find_limits
from supervisor.guard.members import Members
from supervisor.log import get_logger
from supervisor.processes.worker_handle import WorkerHandle
from supervisor.readings.memory import Bound
from supervisor.settings import MemorySettings

log = get_logger("guard")

_NOTABLE_CHANGE = 1 / 8
"""Share by which a budget must change to be replaced, and to be logged again."""


class Budgets:
    """Limits and budgets of all members, in bytes."""

    def __init__(self, settings: MemorySettings, members: Members, accounting: Accounting) -> None:
        self._settings = settings
        self._members = members
        self._accounting = accounting
        self.budget = find_budget(settings, None, 1)
        self.left = 0
        """Bytes until the tightest bound, less the reserve, at the last full reading."""
        self.most_growth_ever = 0
        """Bytes that one worker could grow with all that the limits allow beside the model, at the
        last full reading."""
        self._limits: Limits | None = None
        self._found_for: tuple[tuple[int, ...], int, bool] | None = None
        self._logged = -1
        self._allowed: dict[int, int] = {}
        """By worker pid, the hard budget that its current work began with."""
        self._without_streams: dict[int, int] = {}
        """By worker pid, its growth when it had no stream."""

    @property
    def limits(self) -> Limits:
        """Limits as of the last reading."""
        assert self._limits is not None
        return self._limits

    def update(self, bounds: tuple[Bound, ...]) -> None:
        """Compute limits and budget from the bounds of a full reading."""
        limits = find_limits(bounds, self._settings)
        if self._limits is None or limits.limit != self._limits.limit:
            log.info(
                "guard.limits_found",
                limit_bytes=limits.limit.bytes,
                limit_is=limits.limit.reason,
                reserve_bytes=limits.reserve.bytes,
                reserve_is=limits.reserve.reason,
            )
        self._limits = limits
        self.left = min(bound.left for bound in bounds) - limits.reserve.bytes
        serving = tuple(server.pid for server in self._members.live_servers)
        self.most_growth_ever = self._most_growth_ever(serving, limits)
        if not serving:
            return
        # Computed at once, and again when the model's memory is known exactly.
        exact = not self._accounting.outdated
        basis = (serving, limits.limit.bytes, exact)
        shared = max(self._accounting.of(pid).unreclaimable for pid in serving)
        budget = find_budget(
            self._settings, self.left + self.growths(), self._members.slots, shared
        )
        before = self.budget.growth.bytes
        moved = abs(budget.growth.bytes - before) > before * _NOTABLE_CHANGE
        # Other processes in the machine or the cgroup come and go, which changes what is left.
        if self._found_for != basis or moved:
            self._found_for, self.budget = basis, budget
            change = abs(budget.growth.bytes - self._logged)
            if exact and change > self._logged * _NOTABLE_CHANGE:
                self._logged = budget.growth.bytes
                log.info(
                    "guard.budget_found",
                    budget_bytes=budget.growth.bytes,
                    budget_is=budget.growth.reason,
                    hard_budget_bytes=budget.hard.bytes,
                    max_rss_bytes=budget.max_rss.bytes if budget.max_rss else None,
                )

    def _most_growth_ever(self, serving: Iterable[int], limits: Limits) -> int:
        models = sum(self._accounting.of(pid).unreclaimable for pid in serving)
        left = max(0, limits.limit.bytes - limits.reserve.bytes - models)
        budget = find_budget(self._settings, left, max(1, self._members.slots))
        return min(left, budget.hard.bytes)

    def growths(self) -> int:
        """Return the growth of all workers together."""
        return sum(self._accounting.of(worker.pid).growth for worker in self._members.workers)

    def hard(self, worker: WorkerHandle) -> int:
        """Return the budget past which the worker is ended. Its current work keeps the budget that
        it began with: if others take memory, that is a shortage, and not its own fault."""
        now = self.budget.hard.bytes
        allowed = max(now, self._allowed.get(worker.pid, 0)) if worker.busy else now
        self._allowed[worker.pid] = allowed
        return allowed

    # --- streams --------------------------------------------------------------------------------

    def for_streams(self, worker: WorkerHandle) -> int:
        """Return how much the worker may grow beyond the budget, which is for a job or for one
        stream."""
        member = self._members.of(worker)
        if member is None or len(worker.streams) < 2:
            return 0
        need = min(member.stream_need.bytes, self.budget.growth.bytes)
        return need * (len(worker.streams) - 1)

    def reserved_for_streams(self) -> int:
        """Return what open streams are expected to take and have not taken yet."""
        return sum(
            max(0, m.stream_need.bytes * len(worker.streams) - self._grown_by_streams(worker))
            for m in self._members
            for worker in m.lifecycle.workers
            if worker.streams
        )

    def learn_of_streams(self) -> None:
        """Learn how much streams have made their workers grow."""
        workers = self._members.workers
        there = {worker.pid for worker in workers}
        self._without_streams = {p: g for p, g in self._without_streams.items() if p in there}
        self._allowed = {pid: hard for pid, hard in self._allowed.items() if pid in there}
        for worker in workers:
            if not worker.streams:
                self._without_streams[worker.pid] = self._accounting.of(worker.pid).growth
            elif not worker.ending and (member := self._members.of(worker)) is not None:
                member.stream_need.learn(self._grown_by_streams(worker), len(worker.streams))

    def _grown_by_streams(self, worker: WorkerHandle) -> int:
        growth = self._accounting.of(worker.pid).growth
        return max(0, growth - self._without_streams.get(worker.pid, 0))
