"""The supervisor's log: logging never raises.

A log that cannot be written (a full disk, a closed pipe) must not stop a change of state half way.
"""

import contextlib
import functools
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import structlog


class _Unfailing:
    """Logger whose methods raise nothing. Its library is loaded with the first event, since the
    processes of the tree do not need it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, level: str) -> Any:
        def event(*arguments: Any, **fields: Any) -> None:
            with contextlib.suppress(Exception):
                getattr(self._logger, level)(*arguments, **fields)

        return event

    @functools.cached_property
    def _logger(self) -> Any:
        import structlog

        return structlog.get_logger(self._name)


class RepeatLimit:
    """Limit on log events that say the same again and again: all of the first minute are logged,
    then those after 2, 4, 8, ... minutes, and at least one an hour."""

    _ALL_S, _LONGEST_S, _MOST = 60.0, 3600.0, 64
    _NUMBERS = re.compile(r"\d+(?:[.,]\d+)*")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, tuple[float, float]] = {}
        """By text, with numbers left out: when it came first, and when it was logged last."""

    def due(self, text: str) -> bool:
        """Return whether an event with this text is to be logged now. Numbers make no difference:
        sizes of memory are others each time."""
        now, text = self._clock(), self._NUMBERS.sub("#", text)
        first, last = self._said.get(text, (now, now))
        pause_s = min(last - first, self._LONGEST_S)
        if now - first >= self._ALL_S and now - last < pause_s:
            return False
        if text not in self._said and len(self._said) == self._MOST:
            self._said.clear()
        self._said[text] = first, now
        return True

    def forget(self) -> None:
        """Have the next event logged, whatever it says."""
        self._said.clear()


def get_logger(name: str) -> "structlog.stdlib.BoundLogger":
    """Return a logger of structlog by that name, which drops what it cannot write."""
    return cast("structlog.stdlib.BoundLogger", _Unfailing(name))
