"""Detection of changes to the clock.

Jobs are expired and reported by the time of day, which outlives the server; a machine without a
battery-backed clock learns it minutes after its start.
"""

import time

_NOTABLE_S = 30.0
"""Seconds of a change that counts; smaller ones are adjustments."""


class SetClock:
    """Notices it, between one question and the next."""

    def __init__(self) -> None:
        self._difference = _difference()

    def set_by(self) -> float:
        """Return the seconds by which the clock was set since the last call; 0 if it was not."""
        before, self._difference = self._difference, _difference()
        moved = self._difference - before
        return moved if abs(moved) > _NOTABLE_S else 0.0

    def now(self) -> float:
        """Return the time of day, by the clock as it was at the last `set_by`."""
        return self._difference + _since_start()


def _difference() -> float:
    return time.time() - _since_start()


def _since_start() -> float:
    """Return seconds since the machine's start, asleep or not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
