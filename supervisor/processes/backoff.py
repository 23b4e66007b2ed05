"""Delays before another attempt: none the first time, then longer and longer."""


class Backoff:
    """Delays of 0, first, 2 * first, ... up to `longest` seconds.

    After a success that lasts `forgiven_after_s` the series starts again.
    """

    def __init__(self, first_s: float, longest_s: float, forgiven_after_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._forgiven_after_s = forgiven_after_s
        self._failures = 0

    @property
    def failures(self) -> int:
        """Number of failures in a row."""
        return self._failures

    def failed(self, lasted_s: float) -> float:
        """Return the seconds to wait after a failure that came after `lasted_s` seconds."""
        if lasted_s >= self._forgiven_after_s:
            self._failures = 0
        delay = 0.0
        if self._failures > 0:
            delay = min(self._first_s * 2 ** (self._failures - 1), self._longest_s)
        self._failures += 1
        return delay
