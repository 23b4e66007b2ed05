"""Waits after failures, longer with each."""

from dataclasses import dataclass

_FIRST_S, _GROWTH = 2.0, 2.0


@dataclass(slots=True)
class Backoff:
    """The failures of one destination. Times in seconds of one monotonic clock."""

    longest_s: float = 60.0
    failures: int = 0
    since: float = 0.0
    """Time of the first failure of the current series."""
    until: float = 0.0
    """Time of the next attempt, at the earliest."""

    def failed(self, now: float, least_s: float = 0.0) -> float:
        """Count a failure; returns the seconds until the next attempt, at least `least_s`."""
        if not self.failures:
            self.since = now
        wait_s = min(self.longest_s, _FIRST_S * _GROWTH ** min(self.failures, 30))
        self.failures += 1
        self.until = now + max(least_s, wait_s)
        return self.until - now

    def succeeded(self) -> None:
        """Start from the beginning."""
        self.failures, self.until = 0, 0.0

    def lasted_s(self, now: float) -> float:
        """Return for how many seconds it has failed; 0 if it has not."""
        return now - self.since if self.failures else 0.0
