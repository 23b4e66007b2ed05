"""The load of a pool's live streams, and whether one more would make the others late."""

import time
from collections import deque

_LOOK_BACK_S = 5.0
LEAST_SPAN_S = 0.5
_PACE_UNITS = 300.0
"""Units over which the pace is averaged: many more than a stream's first seconds, which are
cheaper."""
_FIRST_PACE = 0.1
"""Seconds of work per unit, before any was measured: a cautious guess."""
_LEAST_UNITS = 10.0
"""Units that must be answered before the measured pace is used."""


class StreamLoad:
    """Work in the last seconds, and the pace: seconds of work per unit."""

    def __init__(self) -> None:
        self._worked: deque[tuple[float, float]] = deque()  # when, and seconds of work
        self._worked_s = 0.0  # the sum of what is in it
        self._begun: dict[int, float] = {}
        self._since = 0.0
        """Time at which the first of the open streams began."""
        self._pace_s = self._pace_units = 0.0  # of work, and what it was for; fading

    def begin(self, number: int) -> None:
        """Count a stream that begins."""
        now = time.monotonic()
        if not self._begun:
            self._since = now
            self._worked.clear()
            self._worked_s = 0.0
        self._begun[number] = now

    def end(self, number: int) -> None:
        """Stop counting a stream that has ended."""
        self._begun.pop(number, None)

    def worked(self, units: float, ran_s: float) -> None:
        """Count an answer to `units` of input, which took a worker `ran_s`."""
        now = time.monotonic()
        self._worked.append((now, ran_s))
        self._worked_s += ran_s
        self._look_back(now)
        fades = max(0.0, 1.0 - units / _PACE_UNITS)
        self._pace_s = self._pace_s * fades + ran_s
        self._pace_units = self._pace_units * fades + units

    def pace(self, s_per_unit: float | None) -> float:
        """Return the seconds of work per unit of a stream. `s_per_unit`: those of the pool's
        jobs."""
        if self._pace_units < _LEAST_UNITS:
            return s_per_unit or _FIRST_PACE
        return max(1e-6, self._pace_s / self._pace_units)

    def needs(self, pace: float) -> float:
        """Return how many workers' whole time the streams need: measured over the last seconds, and
        estimated for new streams."""
        now = time.monotonic()
        self._look_back(now)
        new = sum(now - begun < _LOOK_BACK_S for begun in self._begun.values())
        span_s = min(_LOOK_BACK_S, max(LEAST_SPAN_S, now - self._since))
        return max(self._worked_s / span_s, new * pace)

    def _look_back(self, now: float) -> None:
        while self._worked and now - self._worked[0][0] > _LOOK_BACK_S:
            _, ran_s = self._worked.popleft()
            self._worked_s -= ran_s
