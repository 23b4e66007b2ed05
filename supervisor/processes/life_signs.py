"""Signs of life of a worker, read from its page and timed by the loop's clock."""

from supervisor.loop.clock import LoopClock
from supervisor.wire.page import Page


class LifeSigns:
    """Signs of life. It owns `page`; seconds are those of the loop's clock."""

    def __init__(self, page: Page, clock: LoopClock) -> None:
        self._page: Page | None = page
        self._clock = clock
        self._heartbeat, self._seen_at = 0, clock.now()
        self._at_hand = 0
        self._expected_since: float | None = None

    @property
    def at_hand(self) -> int:
        """Number of the job or stream that the worker was working on when last seen, as it says; 0
        for none."""
        return self._at_hand if self._page is None else self._page.at_hand

    def silent_s(self) -> float:
        """Return the seconds since the heartbeat was first seen as it is now."""
        now, heartbeat = self._clock.now(), 0 if self._page is None else self._page.heartbeat
        if heartbeat != self._heartbeat:
            self._heartbeat, self._seen_at = heartbeat, now
        return now - self._seen_at

    def overdue_s(self, *, expected: bool) -> float:
        """Return the seconds for which something has been `expected` of the worker without a
        break."""
        if not expected:
            self._expected_since = None
            return 0.0
        now = self._clock.now()
        if self._expected_since is None:
            self._expected_since = now
        return now - self._expected_since

    def close(self) -> None:
        """Unmap the page, remembering its last content. May be called twice."""
        if self._page is not None:
            self._at_hand = self._page.at_hand
            self._page.close()
            self._page = None
