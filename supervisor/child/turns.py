"""Which work of a worker has the next step: no class of it waits for ever.

Live streams go first, then the file, then the background; but each class that has something to do
has at least its share of the time (deficit round robin: Shreedhar and Varghese, 1995).
"""

import enum
from collections.abc import Collection

_MOST_OWED_S = 0.1
"""What a class may be ahead or behind: longer steps, and longer waits, are forgiven."""


class Turn(enum.IntEnum):
    """A class of work, the most urgent first."""

    STREAMS = 0
    FILE = 1
    BACKGROUND = 2


SHARES = {Turn.STREAMS: 0.5, Turn.FILE: 0.25, Turn.BACKGROUND: 0.1}
"""The least share of its worker's time, while it has something to do."""


class Turns:
    """Counts, for each class, the seconds that are owed to it."""

    def __init__(self) -> None:
        self._owed_s = dict.fromkeys(Turn, 0.0)

    def next(self, waiting: Collection[Turn]) -> Turn:
        """Of the classes that have something to do, the one whose step is next."""
        owed = max(waiting, key=self._owed_s.__getitem__)
        return owed if self._owed_s[owed] > 0 else min(waiting)

    def ran(self, turn: Turn, seconds: float, waiting: Collection[Turn]) -> None:
        """A step of `turn` took `seconds`, while `waiting` had something to do."""
        for other, share in SHARES.items():
            if other not in waiting and other is not turn:
                self._owed_s[other] = 0.0
                continue
            owed = self._owed_s[other] + share * seconds - (seconds if other is turn else 0.0)
            self._owed_s[other] = min(_MOST_OWED_S, max(-_MOST_OWED_S, owed))
