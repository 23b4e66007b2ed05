"""Spans, begun and ended through OpenTelemetry's API.

Attributes have the names of OpenTelemetry's semantic conventions, where there is one.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from modelserver import __version__

# A client's odd `tracestate` is worth no line of the log.
logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)

_W3C = TraceContextTextMapPropagator()
_NANO = 1_000_000_000
_tracer = trace.get_tracer("modelserver", __version__)  # that of the SDK, once there is one


class _Sdk:
    """The presence of an SDK that records spans. Asking the API takes longer than recording."""

    there = False

    def look(self) -> None:
        """Look for an SDK; call it once the process has set up what it exports."""
        self.there = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


_sdk = _Sdk()
look_for_sdk = _sdk.look


def parent_of(traceparent: str, tracestate: str = "") -> Context:
    """Return the place in a trace that the headers of these names give (W3C Trace Context), empty
    if they give none."""
    if not traceparent:
        return Context()
    return _W3C.extract({"traceparent": traceparent, "tracestate": tracestate}, Context())


def trace_headers(place: Span | Context | None = None) -> dict[str, str]:
    """Return `traceparent` and `tracestate` for a request to another server: of that place, or of
    the present one."""
    headers: dict[str, str] = {}
    _W3C.inject(headers, trace.set_span_in_context(place) if isinstance(place, Span) else place)
    return headers


def trace_id(span: Span) -> str | None:
    """Return the trace's id in hexadecimal; None of a span that is in no trace."""
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def start_span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: Context | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
    began: float | None = None,
) -> Span:
    """Begin a span below `parent`, or below the present one; the caller ends it. `began`: Unix
    time, if that is not now."""
    at = None if began is None else round(began * _NANO)
    return _tracer.start_span(name, parent, kind, attributes, start_time=at)


@contextlib.contextmanager
def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: Context | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Iterator[Span]:
    """Make a new span the present one, and end it; an exception makes it a failed one. Without an
    SDK only a `parent` changes the place: other spans would be copies of the present one."""
    if not _sdk.there:
        present = trace.get_current_span()
        if parent is None or (not parent and present is trace.INVALID_SPAN):
            yield present
            return
    begun = start_span(name, kind, parent, attributes)
    with trace.use_span(begun, True, record_exception=False, set_status_on_exception=False):
        try:
            yield begun
        except BaseException as error:
            fail(begun, getattr(error, "code", None) or type(error).__name__, str(error))
            raise


def past_span(name: str, began: float, ended: float) -> None:
    """Record a span below the present one, between two Unix times."""
    if not _sdk.there:
        return
    start_span(name, began=began).end(round(ended * _NANO))


def fail(span: Span, code: str, message: str = "") -> None:
    """Mark it as failed."""
    span.set_attribute("error.type", code)
    span.set_status(trace.StatusCode.ERROR, message or None)
