"""Polling: when the guard looks and when it reads.

A look costs microseconds, one counter per process; a full reading takes milliseconds, in a thread;
an exact one walks the page tables of every process. At rest all are less frequent.
"""

from collections.abc import Iterable

from supervisor.deaths.level import Level
from supervisor.guard.accounting import Accounting
from supervisor.guard.members import Members
from supervisor.readings.memory import Bound

READ_EVERY_S, READ_AT_REST_EVERY_S = 1.0, 5.0
LOOK_EVERY_S = 0.05
LOOK_AT_REST_EVERY_S, LEAST_AT_REST_S = 0.5, 0.1
LEAST_INTERVAL_S, LEAST_IF_GROWING_S = 0.025, 0.005
"""Intervals near a limit. A look wakes a processor that may be idle, which costs more than the
look: near a limit, too, there are forty a second, until something grows."""
_GROWING, _CLOSER = 50e6, 5
"""Bytes per second of growth from which on looks are this many times closer."""
FASTEST_GROWTH = 5e9
"""Bytes per second: about as fast as the kernel hands out huge pages."""
_EXACT_EVERY_S, _EXACT_AT_REST_EVERY_S = 10.0, 60.0
_EXACT_SHARE = 0.001
"""Share of a core that exact readings may take, if processes are large."""
_EXACT_SPACING_S = 1.0
_EXACT_IF_UNEXPLAINED_S = 0.25


class Polling:
    """Intervals between looks, readings and exact readings."""

    def __init__(self, members: Members, accounting: Accounting) -> None:
        self._members = members
        self._accounting = accounting
        self.unexplained = False
        """True if more memory was taken than our processes seem to have: they are to be read
        exactly."""
        self._exact_at, self._exact_cost_s = -1e9, 0.0
        self.resting = True
        """True if the last interval was one at rest."""

    def at_rest(self) -> bool:
        """Return whether no worker has work, no helper runs, and no model is being loaded."""
        return not (self._members.busy or self._members.helpers or self._members.loading)

    def interval(self, bounds: Iterable[Bound]) -> float:
        """Return the seconds until the next look: less than the fastest growth would take to use up
        what is left of any of `bounds`."""
        self.resting = False
        if self._members.loading:
            return LEAST_INTERVAL_S / 2
        in_time = min((bound.left for bound in bounds), default=0) / FASTEST_GROWTH
        if self._accounting.total_rate() > _GROWING:
            return max(LEAST_IF_GROWING_S, min(LOOK_EVERY_S, in_time) / _CLOSER)
        if self.at_rest():
            self.resting = True
            return max(LEAST_AT_REST_S, min(LOOK_AT_REST_EVERY_S, in_time))
        return max(LEAST_INTERVAL_S, min(LOOK_EVERY_S, in_time))

    def reading_every_s(self, level: Level) -> float:
        """Return the seconds between two full readings, when nothing happens."""
        calm = level is Level.NORMAL and not self._accounting.outdated and self.at_rest()
        return READ_AT_REST_EVERY_S if calm else READ_EVERY_S

    def exact_due(self, now: float) -> bool:
        """Return whether the next reading has to be exact."""
        passed = now - self._exact_at
        usual = _EXACT_AT_REST_EVERY_S if self.at_rest() else _EXACT_EVERY_S
        return (
            (self.unexplained and passed > _EXACT_IF_UNEXPLAINED_S)
            or (self._accounting.outdated and passed > _EXACT_SPACING_S)
            or passed > max(usual, self._exact_cost_s / _EXACT_SHARE)
        )

    def exact_read(self, now: float, cost_s: float) -> None:
        """Record an exact reading made at `now`, which took `cost_s` of a core."""
        self._exact_at, self._exact_cost_s = now, cost_s
        self.unexplained = False
