"""How long to wait before trying again: at once the first time, then longer and longer."""


class Backoff:
    """Delays of 0, first, 2 * first, ... up to `longest` seconds.

    A success that lasts `forgiven_after_s` starts the series anew.
    """

    def __init__(self, first_s: float, longest_s: float, forgiven_after_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._forgiven_after_s = forgiven_after_s
        self._failures = 0

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return self._failures

    def failed(self, lasted_s: float) -> float:
        """Return how many seconds to wait after a failure that took `lasted_s` seconds to come."""
        if lasted_s >= self._forgiven_after_s:
            self._failures = 0
        delay = 0.0
        if self._failures > 0:
            delay = min(self._first_s * 2 ** (self._failures - 1), self._longest_s)
        self._failures += 1
        return delay
