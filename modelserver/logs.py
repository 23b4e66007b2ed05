"""Logs: events with fields, on standard error, one line each.

The reader of the log may be slow, blocked or gone, and the server never waits for it: a thread
writes the lines, and lines beyond a bound are dropped and counted.

Events are named `noun.past_participle`. `docs/log-events.toml` has the meaning of each, and
`scripts/reference` makes `docs/log-events.md` of it.
"""

import atexit
import contextlib
import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from typing import Any, Literal, TextIO, cast

import msgspec
import structlog
from structlog.typing import EventDict

from modelserver.settings import LogSettings
from modelserver.timestamps import timestamp

_MOST_LINES = 10_000
"""Most lines that wait to be written."""
_REMEMBERED = 500
LogLevel = Literal["debug", "info", "warning", "error"]
_wanted: dict[str, LogLevel] = {"level": "info"}

_LAST_LINES_S = 1.0
"""Seconds for which the process waits at its end for lines to be written."""


def configure_logs(settings: LogSettings) -> None:
    """Set up structlog, and the standard library's logging for what libraries log."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    set_level(settings.level)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _with_timestamp,
        _without_absent,
    ]
    renderer = _renderer(settings.format)
    stream = cast("TextIO", PatientStream(sys.stderr))
    writer = structlog.WriteLogger(stream)
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            recent_events.remember,
            renderer,
        ],
        logger_factory=lambda *_: writer,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processor=renderer, foreign_pre_chain=[*shared, structlog.processors.format_exc_info]
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


def set_level(level: LogLevel) -> None:
    """Set the lowest level that is logged from now on."""
    _wanted["level"] = level
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(number))


def level_now() -> LogLevel:
    """Return the lowest level that is logged."""
    return _wanted["level"]


class RecentEvents:
    """The last events that were logged, for the admin side. They are packed, because most of them
    are never read."""

    def __init__(self) -> None:
        self.count = 0
        """How many events were logged so far."""
        self._packed: deque[bytes] = deque(maxlen=_REMEMBERED)

    def remember(self, _: Any, __: str, event: EventDict) -> EventDict:
        """Remember an event, as a processor of structlog."""
        self.count += 1
        self._packed.append(_packed(event))
        return event

    def since(self, count: int) -> list[dict[str, Any]]:
        """Return the events after the first `count` that are still remembered, oldest first."""
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
"""The events of this process."""


class PatientStream:
    """A stream that a thread writes to `stream`, so that logging never waits for the reader."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_all, name="logs", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, text: str) -> int:
        """Queue text to be written, or drop it if too many lines wait."""
        if self._lines.qsize() < _MOST_LINES:
            self._lines.put(text)
        else:
            self._dropped += 1
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread flushes after each line."""

    def close(self) -> None:
        """Write the lines that wait, for at most a second."""
        self._lines.put(None)
        self._thread.join(_LAST_LINES_S)

    def _write_all(self) -> None:
        while (text := self._lines.get()) is not None:
            with contextlib.suppress(OSError, ValueError):  # the line is lost with its reader
                self._stream.write(text)
                self._stream.flush()
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                structlog.get_logger("logs").warning("log.lines_dropped", lines=dropped)


def _with_timestamp(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """Add the time."""
    return event | {"timestamp": timestamp(time.time())}


def _without_absent(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """Remove fields that are None."""
    return {key: value for key, value in event.items() if value is not None}


def _lists_in_words(event: Any) -> dict[str, Any]:
    """Write lists as their elements with commas between them."""
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
