"""Logs: events with fields, on standard error, one line each.

Whoever reads them may be slow, stand still, or be gone. That is no reason for the server to wait,
or to stumble: a thread of its own writes, and lines that nobody takes are dropped and counted.
"""

import atexit
import contextlib
import logging
import os
import queue
import sys
import threading
from collections import deque
from typing import Any, Literal, TextIO, cast

import msgspec
import structlog
from structlog.typing import EventDict

from modelserver.settings import LogSettings

_MOST_LINES = 10_000
"""That wait to be written."""
_REMEMBERED = 500
_OTHER_METHODS = {"exception": "error", "msg": "info", "warn": "warning", "fatal": "critical"}

LogLevel = Literal["debug", "info", "warning", "error"]
_wanted: dict[str, object] = {"name": "info", "number": logging.INFO}

_LAST_LINES_S = 1.0
"""How long the end of the process waits for them."""


def configure_logs(settings: LogSettings) -> None:
    """Set up structlog, and send what libraries log through the standard library the same way."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    set_level(settings.level)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_absent,
    ]
    renderer = _renderer(settings.format)
    stream = cast("TextIO", PatientStream(sys.stderr))
    structlog.configure(
        processors=[
            _only_wanted,
            *shared,
            structlog.processors.format_exc_info,
            recent_events.remember,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(stream),
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processor=renderer, foreign_pre_chain=[*shared, structlog.processors.format_exc_info]
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


def set_level(name: LogLevel) -> None:
    """The least level that is logged from now on."""
    _wanted.update(name=name, number=logging.getLevelNamesMapping()[name.upper()])


def level_now() -> LogLevel:
    """The least level that is logged."""
    return cast("LogLevel", _wanted["name"])


def _only_wanted(_: Any, method: str, event: EventDict) -> EventDict:
    number = logging.getLevelNamesMapping()[_OTHER_METHODS.get(method, method).upper()]
    if number < cast("int", _wanted["number"]):
        raise structlog.DropEvent
    return event


class RecentEvents:
    """The last events that were logged, for whoever asks later; packed, as they are many and most
    are never looked at."""

    def __init__(self) -> None:
        self.count = 0
        """How many there were so far."""
        self._packed: deque[bytes] = deque(maxlen=_REMEMBERED)

    def remember(self, _: Any, __: str, event: EventDict) -> EventDict:
        """As a processor of structlog's."""
        self.count += 1
        self._packed.append(_packed(event))
        return event

    def since(self, count: int) -> list[dict[str, Any]]:
        """Those after the first `count`, as far as they are remembered, oldest first."""
        first = self.count - len(self._packed) + 1
        return [
            {"number": number, **msgspec.msgpack.decode(packed)}
            for number, packed in enumerate(self._packed, first)
            if number > count
        ]


def _packed(event: EventDict) -> bytes:
    try:
        return msgspec.msgpack.encode(event, enc_hook=str)
    except (UnicodeError, OverflowError, TypeError):  # half a character, or more than 64 bits
        return msgspec.msgpack.encode(
            {
                key: f"{value}".encode(errors="backslashreplace").decode()
                for key, value in event.items()
            }
        )


recent_events = RecentEvents()
"""Of this process."""


class PatientStream:
    """Writes to `stream` in a thread, so that nobody who logs ever waits for who reads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_all, name="logs", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, text: str) -> int:
        """Have it written, or drop it where too much waits already."""
        if self._lines.qsize() < _MOST_LINES:
            self._lines.put(text)
        else:
            self._dropped += 1
        return len(text)

    def flush(self) -> None:
        """The thread does."""

    def close(self) -> None:
        """Write what waits, if somebody takes it; for no longer than a second."""
        self._lines.put(None)
        self._thread.join(_LAST_LINES_S)

    def _write_all(self) -> None:
        while (text := self._lines.get()) is not None:
            with contextlib.suppress(OSError, ValueError):  # the reader is gone: so is the line
                self._stream.write(text)
                self._stream.flush()
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                structlog.get_logger("logs").warning("log.lines_dropped", lines=dropped)


def _without_absent(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """Fields that are None have nothing to say."""
    return {key: value for key, value in event.items() if value is not None}


def _lists_in_words(event: Any) -> dict[str, Any]:
    """For people: their elements with commas between them."""
    return {
        key: ",".join(map(str, value)) if isinstance(value, list | tuple) else value
        for key, value in event.items()
    }


def _renderer(wanted: str) -> Any:
    if wanted == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False)
    if wanted == "auto" and sys.stderr.isatty():
        return structlog.dev.ConsoleRenderer(
            colors=not os.environ.get("NO_COLOR"),  # https://no-color.org
            exception_formatter=structlog.dev.plain_traceback,
        )
    logfmt = structlog.processors.LogfmtRenderer(
        key_order=["timestamp", "level", "event"], drop_missing=True, bool_as_flag=False
    )
    return lambda logger, name, event: logfmt(logger, name, _lists_in_words(event))
