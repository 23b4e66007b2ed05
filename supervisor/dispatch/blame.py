"""Blame: how many workers a stream may lose over one input."""

from supervisor.deaths.death import Death
from supervisor.errors import PoolError, give_up

_MOST_LOST = 10
"""Workers that may be lost without a new answer, whoever is to blame: a worker that was taken over
says what it likes of what it was working for."""


class Blame:
    """Deaths since the stream's last new answer."""

    def __init__(self) -> None:
        self._deaths: list[Death] = []
        self._answered = self._lost = 0

    def worker_lost(
        self, death: Death, answered: int, attempts: int, *, own: bool
    ) -> PoolError | None:
        """Count a worker that died after `answered` answers, by the stream's `own` fault or not.
        Returns what to fail with, if so many did over one input."""
        if self._answered != answered:
            self._answered, self._lost = answered, 0
            self._deaths.clear()
        self._lost += 1
        if own:
            self._deaths.append(death)
        if len(self._deaths) >= attempts or self._lost >= _MOST_LOST:
            return give_up(self._deaths or [death])
        return None
