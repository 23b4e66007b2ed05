"""Where a request stands in a trace that began elsewhere, and what it did here: told to whoever is
asked next (`traceparent`), and, where that is wanted, to an OpenTelemetry collector."""

from modelserver.tracing.context import TraceContext, incoming_context
from modelserver.tracing.spans import (
    CannotTrace,
    Span,
    Tracing,
    current_traceparent,
    past_span,
    span,
    span_below,
)

__all__ = [
    "CannotTrace",
    "Span",
    "TraceContext",
    "Tracing",
    "current_traceparent",
    "incoming_context",
    "past_span",
    "span",
    "span_below",
]
