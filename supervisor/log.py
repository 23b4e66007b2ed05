"""The supervisor's log: logging never raises.

A log that cannot be written (a full disk, a closed pipe) must not stop a change of state half way.
"""

import contextlib
import functools
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


def get_logger(name: str) -> "structlog.stdlib.BoundLogger":
    """Return a logger of structlog by that name, which drops what it cannot write."""
    return cast("structlog.stdlib.BoundLogger", _Unfailing(name))
