"""Blame: how many workers a stream may lose over one input."""

from supervisor.deaths.death import Death
from supervisor.errors import PoolError, give_up

_MOST_LOST = 10
"""Workers that a stream may lose without a new answer, whatever the cause: a worker that was taken
over may lie about what it was working on."""


class Blame:
    """Deaths since the stream's last new answer."""

    def __init__(self) -> None:
        self._deaths: list[Death] = []
        self._answered = self._lost = 0

    def worker_lost(
        self, death: Death, answered: int, attempts: int, *, own: bool
    ) -> PoolError | None:
        """Count a worker that died after `answered` answers, by the stream's `own` fault or not.
        Return the error to fail with, if too many died over one input."""
        if self._answered != answered:
            self._answered, self._lost = answered, 0
            self._deaths.clear()
        self._lost += 1
        if own:
            self._deaths.append(death)
        if len(self._deaths) >= attempts or self._lost >= _MOST_LOST:
            return give_up(self._deaths or [death])
        return None
