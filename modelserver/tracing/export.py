"""Sends spans to a collector with OpenTelemetry's SDK, by OTLP over HTTP, if its variables
(`OTEL_...`) name one."""

import os
from collections.abc import Callable, Mapping

import structlog
from opentelemetry import trace

from models.extras import how_to_install
from modelserver import __version__
from modelserver.tracing.spans import look_for_sdk

log: structlog.stdlib.BoundLogger = structlog.get_logger("tracing")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORT_S = 5
_FLUSH_MS = 2000


def start_export(environment: Mapping[str, str]) -> Callable[[], None]:
    """Record and send this process's spans from now on; without a collector do nothing. Returns
    what sends those that are left: it blocks for up to two seconds."""
    close = _start_export(environment)
    look_for_sdk()
    return close


def _start_export(environment: Mapping[str, str]) -> Callable[[], None]:
    variable = next((name for name in _ENDPOINTS if environment.get(name)), None)
    if variable is None:
        return lambda: None
    try:  # they are an extra, and several megabytes
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        install = how_to_install("opentelemetry")
        reason = f"${variable} is set, and the package that sends spans is missing: {install}"
        log.warning("tracing.disabled", reason=reason)
        return lambda: None
    own: dict[str, str | bool | int | float] = {
        "service.version": __version__,
        "process.pid": os.getpid(),
    }
    if not environment.get("OTEL_SERVICE_NAME"):
        own["service.name"] = "modelserver"
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=_EXPORT_S)))
    trace.set_tracer_provider(provider)
    log.info("tracing.enabled", endpoint=environment[variable])

    def close() -> None:
        provider.force_flush(_FLUSH_MS)
        provider.shutdown()

    return close
