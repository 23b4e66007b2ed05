"""The supervisor's log: events that never fail.

A log that cannot be written (a full disk, a closed pipe) must not stop a change of state half way.
"""

import contextlib
from typing import Any, cast

import structlog


class _Unfailing:
    """A logger whose methods raise nothing."""

    def __init__(self, name: str) -> None:
        self._logger = structlog.get_logger(name)

    def __getattr__(self, level: str) -> Any:
        method = getattr(self._logger, level)

        def event(*arguments: Any, **fields: Any) -> None:
            with contextlib.suppress(Exception):
                method(*arguments, **fields)

        return event


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger of structlog's by that name, which drops what it cannot write."""
    return cast("structlog.stdlib.BoundLogger", _Unfailing(name))
