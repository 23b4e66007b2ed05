"""Spans as OpenTelemetry has them, sent by OTLP over HTTP. Imported only where they are wanted.

The names of attributes are OpenTelemetry's semantic conventions, where they have one.
"""

import os
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.span import TraceState

from modelserver import __version__
from modelserver.settings import TracingSettings
from modelserver.tracing.context import TraceContext
from modelserver.tracing.spans import Kind, Value

_KINDS = {
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
    "internal": trace.SpanKind.INTERNAL,
}
_EXPORT_S = 5
_NANO = 1_000_000_000


class OtelSpan:
    """One of them (`modelserver.tracing.spans.Span`)."""

    def __init__(self, tracer: trace.Tracer, inner: trace.Span) -> None:
        self._tracer, self._inner = tracer, inner

    @property
    def context(self) -> TraceContext:
        """Its place."""
        own = self._inner.get_span_context()
        return TraceContext(
            f"{own.trace_id:032x}",
            f"{own.span_id:016x}",
            int(own.trace_flags),
            own.trace_state.to_header(),
        )

    def note(self, **attributes: Value | None) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._inner.set_attribute(name.replace("__", "."), value)

    def event(self, name: str, **attributes: Value) -> None:
        self._inner.add_event(name, {k.replace("__", "."): v for k, v in attributes.items()})

    def fail(self, code: str, message: str = "") -> None:
        self._inner.set_attribute("error.type", code)
        self._inner.set_status(trace.StatusCode.ERROR, message or None)

    def end(self, at: float | None = None) -> None:
        self._inner.end(_nanoseconds(at))

    def below(self, name: str, kind: Kind = "internal", at: float | None = None) -> "OtelSpan":
        inner = self._tracer.start_span(
            name,
            trace.set_span_in_context(self._inner),
            kind=_KINDS[kind],
            start_time=_nanoseconds(at),
        )
        return OtelSpan(self._tracer, inner)


class OtelRecorder:
    """Keeps spans until a thread of its own has sent them (`modelserver.tracing.spans.Recorder`).
    What the settings leave open is as OpenTelemetry's own variables (`OTEL_...`) say."""

    def __init__(self, settings: TracingSettings, environment: Mapping[str, str]) -> None:
        endpoint = settings.endpoint.rstrip("/")
        if endpoint and not endpoint.endswith("/v1/traces"):
            endpoint += "/v1/traces"
        own: dict[str, str | bool | int | float] = {
            "service.version": __version__,
            "process.pid": os.getpid(),
        }
        if not environment.get("OTEL_SERVICE_NAME"):
            own["service.name"] = "modelserver"
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.sample)),
            resource=Resource.create(own),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=endpoint or None, timeout=_EXPORT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("modelserver", __version__)

    def root(self, name: str, kind: Kind, parent: TraceContext | None) -> OtelSpan:
        """One that is below nothing of ours."""
        above = trace.INVALID_SPAN
        if parent is not None:
            above = trace.NonRecordingSpan(
                trace.SpanContext(
                    int(parent.trace_id, 16),
                    int(parent.span_id, 16),
                    is_remote=True,
                    trace_flags=trace.TraceFlags(parent.flags),
                    trace_state=TraceState.from_header([parent.state]),
                )
            )
        inner = self._tracer.start_span(
            name, trace.set_span_in_context(above), kind=_KINDS[kind], attributes=None
        )
        return OtelSpan(self._tracer, inner)

    def close(self, timeout_s: float) -> None:
        """Send what is left. Blocks."""
        self._provider.force_flush(round(timeout_s * 1000))
        self._provider.shutdown()


def _nanoseconds(at: float | None) -> int | None:
    return None if at is None else round(at * _NANO)
