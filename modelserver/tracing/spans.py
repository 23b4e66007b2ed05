"""Spans: what was done for a request, from when to when. Where nobody collects them only the place
in the trace is kept, so that it can be passed on."""

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Literal, Protocol

import structlog

from modelserver.extras import how_to_install
from modelserver.settings import TracingSettings
from modelserver.tracing.context import TraceContext

log: structlog.stdlib.BoundLogger = structlog.get_logger("tracing")

Kind = Literal["server", "client", "internal"]
Value = str | int | float | bool


class Span(Protocol):
    """Something that was begun. Times are Unix times; None: now."""

    @property
    def context(self) -> TraceContext | None:
        """Its place; None where it is in no trace."""
        ...

    def note(self, **attributes: Value | None) -> None:
        """What is known of it. Names have __ for a dot; None is left out."""
        ...

    def event(self, name: str, **attributes: Value) -> None:
        """Something that happened in it, just now."""
        ...

    def fail(self, code: str, message: str = "") -> None:
        """It came to nothing."""
        ...

    def end(self, at: float | None = None) -> None:
        """It is over."""
        ...

    def below(self, name: str, kind: Kind = "internal", at: float | None = None) -> "Span":
        """Another one, begun in it."""
        ...


class _Silent:
    """Keeps nothing but its place."""

    def __init__(self, context: TraceContext | None) -> None:
        self.context = context

    def note(self, **attributes: Value | None) -> None:
        pass

    def event(self, name: str, **attributes: Value) -> None:
        pass

    def fail(self, code: str, message: str = "") -> None:
        pass

    def end(self, at: float | None = None) -> None:
        pass

    def below(self, name: str, kind: Kind = "internal", at: float | None = None) -> Span:
        return _Silent(self.context.child() if self.context else None)


class Recorder(Protocol):
    """Keeps spans, and sends them to where they are looked at."""

    def root(self, name: str, kind: Kind, parent: TraceContext | None) -> Span:
        """One that is below nothing of ours."""
        ...

    def close(self, timeout_s: float) -> None:
        """Send what is left. Blocks."""
        ...


class CannotTrace(Exception):
    """Spans are to be collected, and cannot be; the text says why."""


_NOTHING: Span = _Silent(None)
_current: ContextVar[Span] = ContextVar("span", default=_NOTHING)


class Tracing:
    """Begins a trace's part here."""

    def __init__(self, settings: TracingSettings, environment: Mapping[str, str]) -> None:
        """Raises `CannotTrace`."""
        self._recorder: Recorder | None = None
        named = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environment.get(
            "OTEL_EXPORTER_OTLP_ENDPOINT"
        )
        if not settings.endpoint and not named:
            return
        try:
            from modelserver.tracing.otel import OtelRecorder
        except ImportError as error:
            reason = (
                f"the package that sends spans is not installed: {how_to_install('opentelemetry')}"
            )
            if settings.endpoint:
                raise CannotTrace(f"tracing.endpoint is set, and {reason}") from error
            log.warning("tracing.off", reason=f"$OTEL_EXPORTER_OTLP_ENDPOINT is set, and {reason}")
            return
        self._recorder = OtelRecorder(settings, environment)
        log.info("tracing.on", endpoint=settings.endpoint or named, sample=settings.sample)

    @contextlib.contextmanager
    def entered(
        self, name: str, parent: TraceContext | None, kind: Kind = "server"
    ) -> Iterator[Span]:
        """Around all that is done for one request, whose place above is `parent`."""
        begun: Span
        if self._recorder is not None:
            begun = self._recorder.root(name, kind, parent)
        elif parent is not None:
            begun = _Silent(parent.child())
        else:
            begun = _NOTHING
        with _held(begun):
            yield begun

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is left. Blocks."""
        if self._recorder is not None:
            self._recorder.close(timeout_s)


@contextlib.contextmanager
def span(name: str, kind: Kind = "internal") -> Iterator[Span]:
    """A part of what is done for the present request."""
    with _held(_current.get().below(name, kind)) as begun:
        yield begun


def span_below(name: str, kind: Kind = "internal") -> Span:
    """The same, for who ends it by hand."""
    return _current.get().below(name, kind)


def current_traceparent() -> str:
    """Where the present request stands; empty where it is in no trace."""
    context = _current.get().context
    return context.traceparent if context else ""


def past_span(name: str, began: float, ended: float) -> None:
    """A part that is over, between two Unix times."""
    _current.get().below(name, at=began).end(ended)


@contextlib.contextmanager
def _held(begun: Span) -> Iterator[Span]:
    token = _current.set(begun)
    try:
        yield begun
    except BaseException as error:
        begun.fail(getattr(error, "code", None) or type(error).__name__, str(error))
        raise
    finally:
        _current.reset(token)
        begun.end()
