"""Blame: how many workers a job or stream may lose over one input, and how soon it is retried."""

from collections.abc import Sequence

from supervisor.deaths.death import Death, Fault, whose_fault
from supervisor.errors import PoolError, give_up

MOST_KILLED = 5
"""Workers that a job or stream may lose by kills from outside while they work on it, which are not
its fault."""
MOST_LOST = 10
"""Workers that a job may lose before they begin it, and a stream without a new answer, whatever the
cause: a worker that was taken over may lie about what it was working on."""
_SECOND_PAUSE_S = 0.2
"""Seconds before the retry after the second kill from outside; each further one doubles them. A
cause that lasts, such as a process that ends the largest one, would end all in milliseconds."""


def own_deaths(deaths: Sequence[Death]) -> list[Death]:
    """Return the deaths that are not kills from outside."""
    return [death for death in deaths if whose_fault(death) is not Fault.OUTSIDE]


def too_many(deaths: Sequence[Death], attempts: int) -> list[Death]:
    """Return the deaths of workers that make a job or stream fail; empty if it is retried.
    `attempts`: how many workers it may end."""
    if len(own := own_deaths(deaths)) >= attempts:
        return own
    return list(deaths) if len(deaths) >= max(attempts, MOST_KILLED) else []


def pause_s(deaths: Sequence[Death]) -> float:
    """Return the seconds to wait before the retry after the last of these deaths."""
    outside = len(deaths) - len(own_deaths(deaths))
    if outside < 2 or whose_fault(deaths[-1]) is not Fault.OUTSIDE:
        return 0.0
    return float(_SECOND_PAUSE_S * 2 ** (outside - 2))


class Blame:
    """Deaths since a stream's last new answer."""

    def __init__(self) -> None:
        self._deaths: list[Death] = []
        self._answered = self._lost = 0

    def worker_lost(
        self, death: Death, answered: int, attempts: int, *, at_hand: bool
    ) -> PoolError | float:
        """Count a worker that died after `answered` answers; `at_hand`: while it worked on the
        stream. Return the error to fail with, if too many died over one input, or else the seconds
        to wait before the stream goes to another worker."""
        if self._answered != answered:
            self._answered, self._lost = answered, 0
            self._deaths.clear()
        self._lost += 1
        if at_hand:
            self._deaths.append(death)
        if blamed := too_many(self._deaths, attempts):
            return give_up(blamed)
        if self._lost >= MOST_LOST:
            return give_up(own_deaths(self._deaths) or [death])
        return pause_s(self._deaths) if at_hand else 0.0
