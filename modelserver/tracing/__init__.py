"""Spans of OpenTelemetry's API: what was done for a request, and its place in a trace that began
elsewhere. Without an SDK (`export`) nothing is recorded, and the place is passed on."""

from modelserver.tracing.spans import (
    fail,
    parent_of,
    past_span,
    span,
    start_span,
    trace_headers,
    trace_id,
)

__all__ = ["fail", "parent_of", "past_span", "span", "start_span", "trace_headers", "trace_id"]
