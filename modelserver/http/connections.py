"""Limit on connections: fewer than there are file descriptors, which everything else needs too.

A connection beyond the limit replaces the one that has been idle longest.
"""

import resource
from typing import Protocol

_FOR_OTHERS = 96
"""Descriptors for the supervisor's own: channels, pidfds, logs, the admin side."""
_TOLD_WHY = 64
_SHARE = 0.75


class Closable(Protocol):
    """Connection that can be closed."""

    def force_close(self) -> None:
        """Close immediately; `Connections.closed` is called later."""


class Connections:
    """Counts the open ones. `most`: with more, a request is refused; with `told_why` beyond that, a
    connection is closed before its request is read."""

    def __init__(self, most: int, told_why: int = _TOLD_WHY) -> None:
        self.most = most
        self._told_why = told_why
        self.handed_on = False
        """True once another process accepts the connections: after its next request, a connection
        here is closed."""
        self._idle: dict[Closable, None] = {}  # the longest idle first
        self._busy: set[Closable] = set()

    @property
    def open(self) -> int:
        """Number of open connections."""
        return len(self._idle) + len(self._busy)

    @property
    def too_many(self) -> bool:
        """A request on one of these is refused, and its connection closed."""
        return self.open > self.most

    @property
    def beyond_hope(self) -> bool:
        """A connection is closed before its request is read."""
        return self.open > self.most + self._told_why

    def opened(self, connection: Closable) -> None:
        """Count a new connection. The longest idle one is closed where there are too many."""
        if self.open >= self.most and self._idle:
            idle = next(iter(self._idle))
            del self._idle[idle]
            idle.force_close()
        self._idle[connection] = None

    def closed(self, connection: Closable) -> None:
        """Count a connection that was closed."""
        self._idle.pop(connection, None)
        self._busy.discard(connection)

    def begins(self, connection: Closable) -> None:
        """Count a connection as busy: a request on it has been read."""
        if connection in self._idle:
            del self._idle[connection]
            self._busy.add(connection)

    def rests(self, connection: Closable) -> None:
        """Count a connection whose request was answered."""
        if connection in self._busy:
            self._busy.remove(connection)
            self._idle[connection] = None


def connections_beside(spools: int) -> Connections:
    """Return a limit that leaves file descriptors for `spools` uploads and for everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Connections(max(int(soft * _SHARE) - spools - _TOLD_WHY - _FOR_OTHERS, soft // 4))
