"""A request's place in a trace: taken, passed on, and told to an OpenTelemetry collector."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from elsewhere import Asked, Elsewhere, Reply, elsewhere
from language_model import LanguageModel, language_model
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from running import RunningServer, busy_worker, start_server, until
from stopwatch import Stopwatch
from wavs import wav_file

from modelserver.tracing import parent_of, trace_headers

TRACE, ABOVE = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{ABOVE}-01"


def test_a_traceparent_is_read() -> None:
    place = parent_of(GIVEN, "a=1,b=2")
    assert trace_headers(place) == {"traceparent": GIVEN, "tracestate": "a=1,b=2"}


@pytest.mark.parametrize(
    "given",
    [
        "",
        "nonsense",
        GIVEN.upper(),
        f"ff-{TRACE}-{ABOVE}-01",
        f"00-{'0' * 32}-{ABOVE}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{ABOVE}-01-more",
        f"00-{TRACE}-{ABOVE}",
        f"00-{TRACE[1:]}-{ABOVE}-01",
        f"00-{TRACE}-{ABOVE}-1",
        f"00-{TRACE}-{ABOVE}-01\n{GIVEN}",
    ],
)
def test_what_is_no_traceparent_is_not_passed_on(given: str) -> None:
    assert trace_headers(parent_of(given, "a=1")) == {}


def test_later_versions_of_it_are_read_as_far_as_they_are_known() -> None:
    place = parent_of(f"cc-{TRACE}-{ABOVE}-01-what-comes-then", "x" * 600)
    assert trace_headers(place) == {"traceparent": GIVEN}


# --- a server that collects nothing -------------------------------------------------------------


@pytest.fixture(scope="module")
def talker() -> Iterator[LanguageModel]:
    with language_model() as model:
        yield model


@pytest.fixture(scope="module")
def settings(small_settings: dict[str, str], talker: LanguageModel) -> dict[str, str]:
    return {
        **small_settings,
        "MODELSERVER_ASSISTANT_URL": talker.url,
        "MODELSERVER_WORKERS_COUNT": "2",
    }


def _ask(server: RunningServer, **headers: str) -> int:
    body = json.dumps({"text": "What?"}).encode()
    return server.ask("/api/ask", body, Content_Type="application/json", **headers).status


def test_the_place_is_passed_on_and_logged(
    settings: dict[str, str], talker: LanguageModel, tmp_path: Path
) -> None:
    with start_server(tmp_path, **settings) as server:
        assert _ask(server, traceparent=GIVEN, tracestate="a=1") == 200
        sent = talker.headers[-1]
        assert (sent["traceparent"], sent["tracestate"]) == (GIVEN, "a=1")
        assert server.wait_event("request.done")["trace_id"] == TRACE
        for headers in ({}, {"traceparent": "nonsense", "tracestate": "a=1"}):
            assert _ask(server, **headers) == 200
            assert "traceparent" not in talker.headers[-1]
            assert "tracestate" not in talker.headers[-1]
        assert "trace_id" not in server.events("request.done")[-1]


def test_who_wants_spans_and_cannot_have_them_is_told(
    settings: dict[str, str], tmp_path: Path
) -> None:
    without = (
        "-c",
        "import sys, modelserver.__main__ as it\n"  # noqa: ISC004 - one argument
        "sys.modules['opentelemetry.sdk.trace'] = None; it.main()",
    )
    endpoint = "http://127.0.0.1:9"
    with start_server(
        tmp_path, program=without, **settings, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint
    ) as server:
        assert (
            "pip install 'modelserver[opentelemetry]'"
            in server.wait_event("tracing.disabled")["reason"]
        )


# --- a server that does ---------------------------------------------------------------------------


@dataclass
class Collected:
    """A span that came."""

    inner: Span
    service: dict[str, str]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.inner.name)


class Collector:
    """Collector, with the spans that it was sent."""

    def __init__(self, there: Elsewhere) -> None:
        self.there = there

    def spans(self, trace: str) -> dict[str, Collected]:
        """Return the spans of a trace, by name."""
        return {one.name: one for one in self.all() if one.inner.trace_id == bytes.fromhex(trace)}

    def all(self) -> list[Collected]:
        found = []
        for asked in tuple(self.there.asked):
            assert asked.path == "/v1/traces"
            message = ExportTraceServiceRequest.FromString(asked.body)
            for of in message.resource_spans:
                service = {a.key: a.value.string_value for a in of.resource.attributes}
                for scope in of.scope_spans:
                    found += [Collected(s, service, _attributes(s)) for s in scope.spans]
        return found

    def wait(self, trace: str, name: str) -> dict[str, Collected]:
        """Wait until that span is there: parents are sent when they end, so after their parts."""
        until(lambda: name in self.spans(trace), 15, f"span {name}")
        return self.spans(trace)


def _attributes(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with elsewhere() as there:
        yield Collector(there)


@pytest.fixture(scope="module")
def server(
    settings: dict[str, str], collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    with start_server(
        tmp_path_factory.mktemp("tracing"),
        **settings,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.there.url,
        OTEL_BSP_SCHEDULE_DELAY="100",
    ) as server:
        server.wait_whole()
        yield server


def _trace(number: int) -> str:
    return f"{number:032x}"


def test_a_request_is_seen_in_its_parts(
    server: RunningServer, collector: Collector, wav_clips: list[bytes]
) -> None:
    trace, before = _trace(1), time.time_ns()
    answer = server.convert(wav_clips[0], traceparent=f"00-{trace}-{ABOVE}-01")
    assert answer.status == 200
    spans = collector.wait(trace, "POST /api/audio/convert")
    after = time.time_ns()
    assert set(spans) == {"POST /api/audio/convert", "receive", "transcribe", "queue", "decode"}
    root = spans["POST /api/audio/convert"]
    assert root.service["service.name"] == "modelserver"
    assert root.inner.parent_span_id == bytes.fromhex(ABOVE)
    assert root.inner.kind == Span.SPAN_KIND_SERVER
    assert root.attributes["http.route"] == "/api/audio/convert"
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["modelserver.request_id"] == answer.json["request_id"]
    assert spans["receive"].attributes["modelserver.bytes"] == len(wav_clips[0])
    above = {"receive": root, "transcribe": root}
    above |= {"queue": spans["transcribe"], "decode": spans["transcribe"]}
    slack = 2_000_000
    for name, parent in above.items():
        inner = spans[name].inner
        assert inner.parent_span_id == parent.inner.span_id
        assert inner.start_time_unix_nano >= parent.inner.start_time_unix_nano - slack
        assert inner.end_time_unix_nano <= parent.inner.end_time_unix_nano + slack
    assert before < root.inner.start_time_unix_nano < root.inner.end_time_unix_nano < after
    decode = spans["decode"].inner
    assert decode.end_time_unix_nano - decode.start_time_unix_nano > 10_000_000
    assert server.wait_event("request.done", trace_id=trace)


def test_a_worker_that_dies_is_seen(
    server: RunningServer, collector: Collector, clips: list[bytes]
) -> None:
    trace, audio = _trace(2), wav_file(b"".join(clips) * 2)
    done = []
    asking = threading.Thread(
        target=lambda: done.append(
            server.convert(audio, traceparent=f"00-{trace}-{ABOVE}-01").status
        )
    )
    asking.start()
    pid = busy_worker(server).pid
    os.kill(pid, signal.SIGKILL)
    asking.join()
    assert done == [200]
    (event,) = collector.wait(trace, "POST /api/audio/convert")["transcribe"].inner.events
    assert event.name == "worker.exited"
    assert _attributes(event)["modelserver.cause"] == "killed"
    assert _attributes(event)["process.pid"] == pid


def test_what_comes_to_nothing_is_seen(server: RunningServer, collector: Collector) -> None:
    trace = _trace(3)
    assert server.convert(b"no audio", traceparent=f"00-{trace}-{ABOVE}-01").status == 400
    spans = collector.wait(trace, "POST /api/audio/convert")
    root = spans["POST /api/audio/convert"]
    assert root.attributes["http.response.status_code"] == 400
    assert root.attributes["error.type"] == "not_audio"
    assert root.inner.status.code == 0  # the server did as it should
    assert spans["receive"].inner.status.code == 2
    assert "transcribe" not in spans


def test_the_language_models_call_is_seen(
    server: RunningServer, collector: Collector, talker: LanguageModel
) -> None:
    trace = _trace(4)
    assert _ask(server, traceparent=f"00-{trace}-{ABOVE}-01") == 200
    spans = collector.wait(trace, "POST /api/ask")
    chat = spans["chat"]
    assert chat.inner.kind == Span.SPAN_KIND_CLIENT
    assert chat.inner.parent_span_id == spans["POST /api/ask"].inner.span_id
    assert chat.attributes["gen_ai.response.model"] == "small-talker"
    sent = talker.headers[-1]["traceparent"]
    assert sent == f"00-{trace}-{chat.inner.span_id.hex()}-01"


def test_who_does_not_keep_the_trace_is_not_sent_any(
    server: RunningServer, collector: Collector, talker: LanguageModel
) -> None:
    trace = _trace(5)
    assert _ask(server, traceparent=f"00-{trace}-{ABOVE}-00") == 200
    assert talker.headers[-1]["traceparent"].startswith(f"00-{trace}-")
    assert talker.headers[-1]["traceparent"].endswith("-00")
    other = _trace(6)
    assert _ask(server, traceparent=f"00-{other}-{ABOVE}-01") == 200
    collector.wait(other, "POST /api/ask")
    assert not collector.spans(trace)


def test_a_job_is_a_part_of_the_trace_that_brought_it(
    server: RunningServer, collector: Collector, wav_clips: list[bytes]
) -> None:
    trace = _trace(7)
    answer = server.ask("/v1/jobs", wav_clips[0], traceparent=f"00-{trace}-{ABOVE}-01")
    assert answer.status == 202
    spans = collector.wait(trace, "job")
    assert spans["job"].inner.parent_span_id == spans["POST /v1/jobs"].inner.span_id
    assert spans["job"].attributes["modelserver.job"] == answer.json["id"]
    assert spans["transcribe"].inner.parent_span_id == spans["job"].inner.span_id


def test_probes_are_no_traces(server: RunningServer, collector: Collector) -> None:
    trace = _trace(8)
    assert server.ask("/readyz", traceparent=f"00-{trace}-{ABOVE}-01").status == 200
    assert server.ask("/test", traceparent=f"00-{trace}-{ABOVE}-01").status == 200
    assert set(collector.wait(trace, "GET /test")) == {"GET /test"}


def test_a_collector_that_is_slow_or_gone_costs_nobody_anything(
    settings: dict[str, str], tmp_path: Path
) -> None:
    with elsewhere() as there:

        def slowly(_: Asked) -> Reply:
            return Reply(503, after_s=3.0)

        there.reply = slowly
        with start_server(
            tmp_path,
            **settings,
            OTEL_EXPORTER_OTLP_ENDPOINT=there.url,
            OTEL_BSP_SCHEDULE_DELAY="100",
        ) as server:
            server.wait_ready()
            for _ in range(5):
                watch = Stopwatch()
                assert server.ask("/test").status == 200
                assert watch.seconds < 1
            until(lambda: there.asked)
            assert server.ask("/test").status == 200
            os.kill(server.process.pid, signal.SIGTERM)
            watch = Stopwatch()
            assert server.process.wait(60) == 0
            assert watch.seconds < 12
