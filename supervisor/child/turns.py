"""The order of a worker's classes of work, in which every class gets its share.

Live streams go first, then the file, then the background; but each class that has something to do
gets at least its share of the time (deficit round robin: Shreedhar and Varghese, 1995).
"""

import enum
from collections.abc import Collection

_MOST_OWED_S = 0.1
"""Seconds that a class may be ahead or behind; longer steps and longer waits are not made up
for."""


class Turn(enum.IntEnum):
    """Class of work, the most urgent first."""

    STREAMS = 0
    FILE = 1
    BACKGROUND = 2


SHARES = {Turn.STREAMS: 0.5, Turn.FILE: 0.25, Turn.BACKGROUND: 0.1}
"""Smallest share of the worker's time of each class while it has something to do."""


class Turns:
    """Counts, for each class, the seconds that are owed to it."""

    def __init__(self) -> None:
        self._owed_s = dict.fromkeys(Turn, 0.0)

    def next(self, waiting: Collection[Turn]) -> Turn:
        """Return the class, of those that have something to do, whose step is next."""
        owed = max(waiting, key=self._owed_s.__getitem__)
        return owed if self._owed_s[owed] > 0 else min(waiting)

    def ran(self, turn: Turn, seconds: float, waiting: Collection[Turn]) -> None:
        """Count a step of `turn` that took `seconds`, while the classes `waiting` had something to
        do."""
        for other, share in SHARES.items():
            if other not in waiting and other is not turn:
                self._owed_s[other] = 0.0
                continue
            owed = self._owed_s[other] + share * seconds - (seconds if other is turn else 0.0)
            self._owed_s[other] = min(_MOST_OWED_S, max(-_MOST_OWED_S, owed))
