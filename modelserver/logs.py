"""Logs: events with fields, on standard error, one line each."""

import logging
import sys
from typing import Any

import structlog

from modelserver.settings import LogSettings


def configure_logs(settings: LogSettings) -> None:
    """Set up structlog, and send what libraries log through the standard library the same way."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_absent,
    ]
    renderer = _renderer(settings.format)
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processor=renderer, foreign_pre_chain=[*shared, structlog.processors.format_exc_info]
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


def _without_absent(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """Fields that are None have nothing to say."""
    return {key: value for key, value in event.items() if value is not None}


def _renderer(wanted: str) -> Any:
    if wanted == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False)
    if wanted == "auto" and sys.stderr.isatty():
        return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    return structlog.processors.LogfmtRenderer(
        key_order=["timestamp", "level", "event"], drop_missing=True
    )
