"""Estimates of the cost of a job, learned from finished ones: memory by an upper quantile, time by
a moving average.

A job's size is a number of units that its caller chooses, such as seconds of audio.
"""

import math
import statistics
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence

from supervisor.guard.limits import MIB

PRIOR_BYTES_PER_UNIT = 2.0 * MIB
"""Assumption until jobs have been seen: a worker that composes its graph while it decodes grows by
300 MB in its first two and a half minutes of audio."""

PRIOR_BYTES_PER_STREAM = 8 * MIB
"""Assumption until streams have been seen: a recogniser on a prepared model takes 5 MB while it
works."""
_LEAST_PER_STREAM = MIB
_STREAMS_REMEMBERED, _STREAMS_EVIDENCE = 64, 8

_PRIOR_WEIGHT = 20
_QUANTILE = 0.95
_REMEMBERED = 256
_EVIDENCE = 20
_LIKE = 4.0
_MOST_BYTES_PER_UNIT = 16 * PRIOR_BYTES_PER_UNIT
_SLOWEST_S = 60.0
"""Longest time per unit that counts: a longer one is caused by the machine, or by a worker that
reports a wrong size."""
_MOST_UNITS = 1e9
_PACE_WEIGHT = 0.1
_PACE_EVIDENCE = 5


class GrowthEstimate:
    """Estimate of how much a worker grows by one job."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()  # size, growth per unit
        self._rates: list[float] = []
        """The same growths, sorted."""
        self._usual = self._most = PRIOR_BYTES_PER_UNIT

    def learn(self, units: float, growth: int) -> None:
        """Learn that a job of `units` made its worker grow by `growth` bytes (0 if it shrank)."""
        if not 0.0 < units < _MOST_UNITS:
            return
        per_unit = min(_MOST_BYTES_PER_UNIT, max(0, growth) / units)
        self._seen.append((units, per_unit))
        insort(self._rates, per_unit)
        if len(self._seen) > _REMEMBERED:
            _, oldest = self._seen.popleft()
            del self._rates[bisect_left(self._rates, oldest)]
        self._most = self._rates[-1]
        prior = _PRIOR_WEIGHT - len(self._rates)
        self._usual = (
            _upper(sorted([*self._rates, *[PRIOR_BYTES_PER_UNIT] * prior]))
            if prior > 0
            else _upper(self._rates)
        )

    def expected(self, units: float) -> int:
        """Return the bytes to reserve: the 95th percentile per unit; the prior counts as twenty
        jobs."""
        return math.ceil(self._usual * units)

    def certain(self, units: float, above: int = 0) -> int | None:
        """Estimate from similar jobs only (at least a quarter of the size), without a prior. Return
        None if too few were seen to refuse a job for it, or if the estimate is not `above`."""
        if self._most * units <= above:
            return None
        alike = [rate for size, rate in self._seen if size >= units / _LIKE]
        return math.ceil(_upper(sorted(alike)) * units) if len(alike) >= _EVIDENCE else None


class Pace:
    """Pace of work: seconds per unit, at present."""

    def __init__(self) -> None:
        self._s_per_unit = 0.0
        self._seen = 0
        self._least = 0.0

    def at_least(self, units: float, run_s: float) -> None:
        """Learn that a job of `units` was not done after `run_s` seconds: valid until others are
        faster."""
        if units > 0:
            self._least = max(self._least, run_s / units)

    def learn(self, units: float, run_s: float) -> None:
        """Learn that a job of `units` took `run_s` seconds on its worker. A size that is not a
        number, or that is impossible, is ignored."""
        if not 0.0 < units < _MOST_UNITS:
            return
        s_per_unit = min(_SLOWEST_S, run_s / units)
        if s_per_unit < self._least:
            self._least = 0.0
        self._seen += 1
        weight = max(_PACE_WEIGHT, 1 / self._seen)
        self._s_per_unit += weight * (s_per_unit - self._s_per_unit)

    @property
    def s_per_unit(self) -> float | None:
        """Seconds of work per unit; None until a few jobs have been seen, or one that took too
        long."""
        if self._seen < _PACE_EVIDENCE:
            return self._least or None
        return max(self._s_per_unit, self._least)


class StreamNeed:
    """Estimate of how much one stream makes a worker grow: the median, so that a stream that leaks
    does not raise the allowance of others."""

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=_STREAMS_REMEMBERED)

    def learn(self, growth: int, streams: int) -> None:
        """Learn that `streams` streams together made their worker grow by `growth` bytes."""
        self._seen.append(max(0, growth) / streams)

    @property
    def bytes(self) -> int:
        """Bytes of one stream; a cautious guess until some were seen."""
        if len(self._seen) < _STREAMS_EVIDENCE:
            return PRIOR_BYTES_PER_STREAM
        return max(_LEAST_PER_STREAM, int(statistics.median(self._seen)))


def _upper(values: Sequence[float]) -> float:
    """Return the upper quantile of sorted values."""
    return values[math.ceil(len(values) * _QUANTILE) - 1]
