"""The server with the embedded model, as its clients see it."""

import fcntl
import functools
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import wavs
from conftest import as_wav
from running import Answer, RunningServer, busy_worker, gone, start_server, until

import models

BOUNDARY = "----boundary"


def form(*parts: tuple[str, str | None, bytes]) -> bytes:
    """A multipart body of (name, file name, content)."""
    body = b""
    for name, file_name, content in parts:
        disposition = f'form-data; name="{name}"'
        if file_name is not None:
            disposition += f'; filename="{file_name}"'
        body += f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
        body += content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


FORM = f"multipart/form-data; boundary={BOUNDARY}"


def test_speech_in_text_out(server: RunningServer, wav_clips: list[bytes]) -> None:
    answer = server.convert(wav_clips[2])
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert set(answer.json) == {"text", "duration", "language", "model", "request_id"}
    assert "어제" in answer.json["text"]
    assert answer.json["duration"] == pytest.approx(7.461, abs=0.01)
    assert answer.json["language"] == "ko"
    assert answer.json["model"] == "vosk-model-small-ko-0.22"
    assert answer.json["request_id"] == answer.headers["X-Request-ID"]
    assert "어제".encode() in answer.body
    assert b"\\u" not in answer.body


def test_words_have_times_and_confidences(server: RunningServer, wav_clips: list[bytes]) -> None:
    answer = server.convert(wav_clips[2], "?words=true").json
    assert [w["word"] for w in answer["words"]] == answer["text"].split()
    assert set(answer["words"][0]) == {"word", "start", "end", "confidence"}


def test_plain_text_is_given_to_those_who_prefer_it(
    server: RunningServer, wav_clips: list[bytes]
) -> None:
    answer = server.convert(wav_clips[2], Accept="text/plain, application/json;q=0.5")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.body.decode() == server.convert(wav_clips[2]).json["text"]


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/*;q=0.1, */*", "image/png"])
def test_json_is_given_to_everybody_else(
    server: RunningServer, wav_clips: list[bytes], accept: str
) -> None:
    answer = server.convert(as_wav(b""), Accept=accept)
    assert answer.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize(
    "content_type",
    [
        "audio/wav",
        "audio/x-wav",
        "audio/vnd.wave; codec=1",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ],
)
def test_any_audio_type_is_taken(server: RunningServer, content_type: str) -> None:
    assert server.convert(as_wav(b""), Content_Type=content_type).status == 200


def test_no_type_at_all_is_taken(server: RunningServer) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    connection.request("POST", "/api/audio/convert", as_wav(b""))
    assert connection.getresponse().status == 200
    connection.close()


def test_a_form_with_one_file_is_taken(server: RunningServer, wav_clips: list[bytes]) -> None:
    expected = server.convert(wav_clips[2]).json["text"]
    for parts in (
        [("file", "a.wav", wav_clips[2])],
        [("note", None, b"hello"), ("upload", "a.wav", wav_clips[2]), ("x", None, b"")],
        [("audio", None, wav_clips[2])],
    ):
        answer = server.convert(form(*parts), Content_Type=FORM)
        assert answer.json["text"] == expected


def test_a_chunked_upload_is_taken(server: RunningServer, wav_clips: list[bytes]) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    wav = wav_clips[2]
    pieces = iter([wav[:10], wav[10:50], wav[50:]])
    connection.request(
        "POST",
        "/api/audio/convert",
        pieces,
        encode_chunked=True,
        headers={"Transfer-Encoding": "chunked"},
    )
    assert "어제" in json.loads(connection.getresponse().read())["text"]
    connection.close()


@pytest.mark.parametrize(
    "pcm", [b"", bytes(16_000), bytes(2)], ids=["no samples", "silence", "one sample"]
)
def test_nothing_said_is_an_empty_text(server: RunningServer, pcm: bytes) -> None:
    answer = server.convert(as_wav(pcm), "?words=true")
    assert answer.status == 200
    assert (answer.json["text"], answer.json["words"]) == ("", [])


def test_a_file_cut_short_is_recognised_with_a_warning(
    server: RunningServer, wav_clips: list[bytes]
) -> None:
    answer = server.convert(wav_clips[2][:-40_000])
    assert "어제" in answer.json["text"]
    assert answer.json["warnings"] == ["the file is cut short: what is there was recognised"]


def test_speech_at_another_rate_and_in_stereo_is_heard(
    server: RunningServer, clips: list[bytes]
) -> None:
    samples = wavs.samples_of(clips[2])
    stereo = b"".join(wavs.encode(s / 40_000, 3, 32) * 2 for s in samples for _ in range(3))
    answer = server.convert(wavs.wav_file(stereo, 3, 32, 2, 48_000))
    same = server.convert(as_wav(clips[2])).json["text"].split()
    heard = answer.json["text"].split()  # repeated samples are not quite the same sound
    assert len(set(same) & set(heard)) > 0.6 * len(set(same))
    assert answer.json["duration"] == pytest.approx(len(samples) / 16_000, abs=0.001)


def test_the_request_id_of_a_gateway_is_kept(server: RunningServer) -> None:
    answer = server.convert(as_wav(b""), X_Request_ID="abc-123")
    assert answer.json["request_id"] == answer.headers["X-Request-ID"] == "abc-123"


def test_a_request_id_that_could_do_harm_is_replaced(server: RunningServer) -> None:
    answer = server.convert(as_wav(b""), X_Request_ID="a b<script>")
    assert len(answer.json["request_id"]) == 32


def test_health_readiness_and_test_answer(server: RunningServer) -> None:
    assert server.ask("/healthz").json == {"status": "ok"}
    assert server.ask("/readyz").json == {
        "status": "ready",
        "model": "vosk-model-small-ko-0.22",
        "language": "ko",
        "workers": 2,
        "models": ["default (vosk-model-small-ko-0.22, ko)"],
    }
    assert server.ask("/test").json["server"] == "modelserver"


# --- errors ---------------------------------------------------------------------------------------


def check_error(answer: Answer, status: int, code: str) -> None:
    assert answer.status == status, answer.body
    error = answer.json["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert error["code"] == code
    assert error["request_id"] == answer.headers["X-Request-ID"]
    assert "Traceback" not in error["message"]


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", "audio/wav", 400, "not_audio"),
        (b"hello", "audio/wav", 400, "not_audio"),
        (b"ID3" + bytes(100), "audio/mpeg", 400, "not_audio"),
        (wavs.wav_file(bytes(10), tag=0x55), "audio/wav", 400, "not_audio"),
        (b"#!SILK_V3" + bytes(100), "audio/silk", 415, "unsupported_audio"),
        (b"{}", "application/json", 400, "missing_file"),
        (b"hello", "text/plain", 400, "not_audio"),
        (b"hello", "multipart/form-data", 400, "malformed_multipart"),
        (b"hello", FORM, 400, "malformed_multipart"),
        (form(("file", "a", b"x"))[:-30], FORM, 400, "incomplete_body"),
        (form(("x", None, b"hello")), FORM, 400, "missing_file"),
        (form(("f", "a", as_wav(b"")), ("g", "b", as_wav(b""))), FORM, 400, "too_many_files"),
        (form(("f", "a", b"hello, no audio")), FORM, 400, "not_audio"),
        (form(("x", None, bytes(100_000))), FORM, 413, "body_too_large"),
        (wavs.wav_file(bytes(8_000 * 3_700), 7, 8, 1, 8_000), "audio/wav", 413, "audio_too_long"),
    ],
)
def test_a_bad_body_is_refused_with_its_code(
    server: RunningServer, body: bytes, content_type: str, status: int, code: str
) -> None:
    check_error(server.convert(body, Content_Type=content_type), status, code)


def test_other_errors_have_the_same_shape(server: RunningServer) -> None:
    check_error(server.ask("/nope"), 404, "not_found")
    method = server.ask("/api/audio/convert")
    check_error(method, 405, "method_not_allowed")
    assert method.headers["Allow"] == "POST"
    check_error(server.convert(as_wav(b""), "?words=perhaps"), 400, "bad_parameter")


def test_what_is_not_http_gets_an_error_document(server: RunningServer) -> None:
    start = b"GET / HTTP/1.1\r\n"
    for garbage, status, code in (
        (b"hello\r\n\r\n", 400, "bad_request"),
        (start + b"X: " + b"x" * 20_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (start + b"X: x\r\n" * 200 + b"\r\n", 431, "headers_too_large"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 431, "headers_too_large"),
    ):
        answer = said(server, garbage)
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["code"]) == (status, code)
        assert answer.headers["X-Request-ID"] == error["request_id"]
        assert answer.headers["Server"].startswith("modelserver/")
        server.wait_event("request.refused", request_id=error["request_id"], error=code)


@pytest.mark.parametrize("line", ["GET /test", "POST /api/audio/convert"])
def test_an_unknown_expectation_is_refused_with_a_document(
    server: RunningServer, line: str
) -> None:
    answer = said(server, f"{line} HTTP/1.1\r\nHost: x\r\nExpect: teapot\r\n\r\n".encode())
    assert answer.status == 417
    assert "teapot" in json.loads(answer.body)["error"]["message"]


def test_who_speaks_http_1_0_is_not_told_to_continue(
    server: RunningServer, wav_clips: list[bytes]
) -> None:
    head = (
        "POST /api/audio/convert HTTP/1.0\r\nExpect: 100-continue\r\n"
        f"Content-Length: {len(wav_clips[2])}\r\n\r\n"
    )
    assert said(server, head.encode() + wav_clips[2]).status == 200


def test_a_refused_expectation_does_not_eat_the_next_request(server: RunningServer) -> None:
    answer = said(
        server,
        b"POST /api/audio/convert HTTP/1.1\r\nHost: x\r\nContent-Encoding: br\r\n"
        b"Content-Length: 50\r\nExpect: 100-continue\r\n\r\n",
    )
    assert answer.status == 415
    assert answer.headers["Connection"] == "close"


def test_nothing_of_a_terminals_is_logged(server: RunningServer) -> None:
    assert server.ask("/%1b[2J%0d").status == 404
    assert server.wait_event("request.done", path="/%1b[2J%0d")


def said(server: RunningServer, sent: bytes) -> Answer:
    """What the server answers to these bytes before it closes."""
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(sent)
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    pairs = [header.split(": ", 1) for header in headers]
    return Answer(int(status.split(" ")[1]), dict(pairs), body)


def read_all(sock: socket.socket) -> bytes:
    sock.settimeout(20)
    received = b""
    while block := sock.recv(65536):
        received += block
    return received


def test_a_body_too_large_by_its_header_is_refused_before_it_is_sent(server: RunningServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(
            b"POST /api/audio/convert HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        sock.settimeout(5)
        answer = sock.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in answer


def test_a_client_that_waits_for_continue_gets_it(
    server: RunningServer, wav_clips: list[bytes]
) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    wav = wav_clips[2]
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(
            f"POST /api/audio/convert HTTP/1.1\r\nHost: x\r\nContent-Length: {len(wav)}\r\n"
            "Expect: 100-continue\r\nConnection: close\r\n\r\n".encode()
        )
        sock.settimeout(5)
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(wav)
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 200 ")


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        (signal.SIGKILL, "killed"),
        (signal.SIGSEGV, "crash"),
        (signal.SIGSTOP, "hang"),
        (signal.SIGTERM, "terminated"),
    ],
)
def test_a_worker_lost_in_mid_request_costs_the_client_nothing(
    server: RunningServer, clips: list[bytes], how: signal.Signals, cause: str
) -> None:
    long = as_wav(b"".join(clips))
    expected = server.convert(long).json["text"]
    seen = len(server.events())
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(server.convert, long)
        victim = busy_worker(server)
        victim.send_signal(how)
        assert answer.result().json["text"] == expected
    event = server.wait_event("worker.exited", seen, pid=victim.pid)
    assert event["cause"] == cause
    server.wait_event("job.retried", seen)
    server.wait_whole()


def test_a_request_that_loses_two_workers_gets_a_clear_error(
    server: RunningServer, clips: list[bytes]
) -> None:
    seen = len(server.events())
    with ThreadPoolExecutor() as threads:
        # As long as one worker has it: of a longer one its samples are made, which is soon done.
        answer = threads.submit(server.convert, as_wav(b"".join(clips) * 2))
        busy_worker(server).kill()
        server.wait_event("job.retried", seen)
        busy_worker(server).kill()
        check_error(answer.result(), 500, "worker_lost")
    assert "killed by SIGKILL" in answer.result().json["error"]["message"]
    server.wait_whole()
    assert server.convert(as_wav(b"")).status == 200


def test_the_fork_server_may_die_and_nobody_notices(
    server: RunningServer, clips: list[bytes]
) -> None:
    long = as_wav(b"".join(clips))
    expected = server.convert(long).json["text"]
    seen = len(server.events())
    old = server.fork_server()
    with ThreadPoolExecutor() as threads:
        answers = [threads.submit(server.convert, long) for _ in range(4)]
        busy_worker(server)
        old.kill()
        assert [a.result().json["text"] for a in answers] == [expected] * 4
    server.wait_event("fork_server.exited", seen, pid=old.pid, cause="killed")
    server.wait_event("model.loaded", seen, timeout_s=60)
    until(lambda: len(server.workers()) == 2, 20)
    server.wait_whole()
    assert server.convert(long).json["text"] == expected


def resources(server: RunningServer) -> tuple[int, int]:
    process = psutil.Process(server.pid)
    return process.num_fds(), process.memory_info().rss


def test_a_thousand_aborted_uploads_leave_nothing_behind(
    server: RunningServer, wav_clips: list[bytes]
) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    wav = wav_clips[2]
    head = (
        f"POST /api/audio/convert HTTP/1.1\r\nHost: x\r\nContent-Length: {len(wav)}\r\n\r\n"
    ).encode()

    def abort(number: int) -> None:
        with socket.create_connection((host, int(port))) as sock:
            if number % 10 == 0:  # goes away while it waits for its answer
                sock.sendall(head + wav)
            else:
                sock.sendall(head + wav[: number * 200])

    for number in range(100):
        abort(number)
    server.wait_whole()
    until(lambda: server.convert(as_wav(b"")).status == 200)
    fds, rss = resources(server)
    seen = len(server.events())
    for number in range(1000):
        abort(number)
    server.wait_event("job.cancelled", seen)
    until(lambda: resources(server)[0] <= fds, 20, "descriptors as before")
    assert resources(server)[1] < rss + 8_000_000
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert "memfd:spool" not in maps
    answer = server.convert(wav)
    assert answer.status == 200
    server.wait_whole()


def test_running_work_stops_when_its_client_goes_away(
    server: RunningServer, clips: list[bytes]
) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    wav = as_wav(b"".join(clips) * 20)
    seen = len(server.events())
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(
            b"POST /api/audio/convert HTTP/1.1\r\nHost: x\r\n"
            + f"Content-Length: {len(wav)}\r\n\r\n".encode()
            + wav
        )
        busy_worker(server)
    # Whose piece has just ended begins no other.
    server.wait_event("job.cancelled", seen, timeout_s=2)
    until(lambda: {w["state"] for w in server.health()["workers"]} == {"idle"}, 2)


def test_two_hundred_uploads_at_once_are_answered_or_refused(
    server: RunningServer, clips: list[bytes]
) -> None:
    # A megabyte each, most of it silence, as a phone left on the table sends it: 8 channels.
    speech = b"".join(clips[2][at : at + 2] * 8 for at in range(0, 32_000, 2))
    wav = wavs.wav_file(speech + bytes(1_000_000 - len(speech)), channels=8)
    rss_before = resources(server)[1]
    peak = [rss_before]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], resources(server)[1])

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(200) as threads:
        answers = list(threads.map(lambda _: server.convert(wav, timeout_s=110), range(200)))
    over.set()
    watcher.join()
    statuses = [a.status for a in answers]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 66  # the two workers and the queue
    for answer in answers:
        if answer.status == 503:
            check_error(answer, 503, "queue_full")
            assert int(answer.headers["Retry-After"]) >= 1
    assert len({a.json["text"] for a in answers if a.status == 200}) == 1
    assert peak[0] < rss_before + 30_000_000


def test_the_same_audio_gives_the_same_text_whatever_came_before(
    server: RunningServer, clips: list[bytes], wav_clips: list[bytes]
) -> None:
    before = server.workers()
    for worker in before:
        worker.kill()
    until(lambda: len(set(server.workers()) - set(before)) == len(before))
    server.wait_whole()
    cold = [server.convert(wav).json["text"] for wav in wav_clips]
    alone = [server.convert(wav).json["text"] for wav in reversed(wav_clips)]
    with ThreadPoolExecutor(6) as threads:
        crowd = list(threads.map(server.convert, wav_clips * 4))
    assert alone[::-1] == cold
    assert [a.json["text"] for a in crowd] == cold * 4
    assert all(cold)


def test_the_allocator_in_use_is_reported(server: RunningServer) -> None:
    (loaded, *_) = server.events("model.loaded")
    assert loaded["allocator_in_use"] == "jemalloc"
    maps = Path(f"/proc/{server.fork_server().pid}/maps").read_text()
    assert "libjemalloc" in maps
    assert "libvosk" in maps
    assert "libvosk" not in Path(f"/proc/{server.pid}/maps").read_text()


# --- starting and stopping ------------------------------------------------------------------------


def test_sigterm_finishes_what_is_in_flight_and_exits_with_0(
    tmp_path: Path, clips: list[bytes]
) -> None:
    with start_server(tmp_path, MODELSERVER_WARMUP="none") as server:
        server.wait_whole()
        with ThreadPoolExecutor() as threads:
            connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            answer = threads.submit(server.convert, as_wav(b"".join(clips)))
            busy_worker(server)
            server.process.send_signal(signal.SIGTERM)
            server.wait_event("server.draining")
            # A connection that was open gets an answer; a new one is not taken.
            connection.request("POST", "/api/audio/convert", as_wav(b""))
            refused = connection.getresponse()
            assert refused.status == 503
            assert json.loads(refused.read())["error"]["code"] == "shutting_down"
            connection.close()
            host, port = server.url.removeprefix("http://").split(":")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(port)))
            assert "어제" in answer.result().json["text"]
        tree = server.tree()[1:]
        assert server.process.wait(10) == 0
    assert not any(p.is_running() for p in tree)


def test_a_second_sigterm_stops_now(tmp_path: Path, clips: list[bytes]) -> None:
    with start_server(tmp_path, MODELSERVER_WARMUP="none") as server:
        server.wait_whole()
        with ThreadPoolExecutor() as threads:
            answer = threads.submit(server.convert, as_wav(b"".join(clips) * 50))
            busy_worker(server)
            server.process.send_signal(signal.SIGTERM)
            server.wait_event("server.draining")
            stopped = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(10) == 0
            assert time.monotonic() - stopped < 5
            check_error(answer.result(), 503, "shutting_down")


def test_a_missing_model_is_waited_for_with_the_reason_in_readyz(
    tmp_path: Path, embedded_path: Path
) -> None:
    model = tmp_path / "model"
    with start_server(tmp_path, "--model", str(model), MODELSERVER_WARMUP="none") as server:
        server.wait_event("model.unavailable")
        answer = server.ask("/readyz")
        check_error(answer, 503, "not_ready")
        assert f"{model} is not a Vosk model" in answer.json["error"]["message"]
        refused = server.convert(as_wav(b""))
        check_error(refused, 503, "not_ready")
        assert int(refused.headers["Retry-After"]) >= 1
        assert server.ask("/healthz").status == 200
        model.symlink_to(embedded_path)
        server.wait_ready()
        assert server.stop() == 0


def test_a_damaged_model_is_told_and_the_server_lives(tmp_path: Path, embedded_path: Path) -> None:
    model = tmp_path / "model"
    for source in embedded_path.rglob("*"):
        if source.is_file():
            target = model / source.relative_to(embedded_path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    damaged = model / "graph" / "Gr.fst"
    content = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(content[: len(content) // 3])
    with start_server(tmp_path, "--model", str(model)) as server:
        server.wait_event("model.unavailable", timeout_s=30)
        answer = server.ask("/readyz")
        check_error(answer, 503, "not_ready")
        assert "cannot be loaded" in answer.json["error"]["message"]
        assert server.ask("/healthz").status == 200


def test_a_port_that_is_taken_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1 port {port}") as told,
            start_server(tmp_path, "--port", str(port)),
        ):
            pass
    assert "Traceback" not in str(told.value).partition("Error:")[2]


@pytest.mark.parametrize("limit", ["request", "upload"])
def test_time_limits_are_kept(tmp_path: Path, clips: list[bytes], limit: str) -> None:
    with start_server(
        tmp_path,
        MODELSERVER_WARMUP="none",
        MODELSERVER_LIMITS_REQUEST_S="0.5",
        MODELSERVER_LIMITS_UPLOAD_IDLE_S="0.5",
    ) as server:
        server.wait_ready()
        if limit == "request":
            long = as_wav(b"".join(clips) * 10)
            check_error(server.convert(long), 504, "deadline_exceeded")
            return
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(
                b"POST /api/audio/convert HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nRIFF"
            )
            answer = sock.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"upload_timeout" in answer


def test_the_supervisor_killed_leaves_no_process(tmp_path: Path, clips: list[bytes]) -> None:
    with start_server(tmp_path, MODELSERVER_WARMUP="none") as server:
        server.wait_whole()
        with ThreadPoolExecutor() as threads:
            abandoned = threads.submit(server.convert, as_wav(b"".join(clips) * 5))
            busy_worker(server)
            tree = server.tree()
            assert len(tree) == 2 + os.cpu_count()  # type: ignore[operator]
            server.process.kill()
            server.process.wait()
            until(lambda: all(gone(process) for process in tree[1:]), 1.0)
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                abandoned.result()


# --- signals and endings --------------------------------------------------------------------------


def test_sighup_while_it_starts_ends_nothing(tmp_path: Path, small: models.ModelLocation) -> None:
    with start_server(tmp_path, f"--model={small.directory}", MODELSERVER_WARMUP="none") as server:
        for _ in range(5):  # from the moment at which it says that it listens
            server.process.send_signal(signal.SIGHUP)
        server.wait_ready()
        assert server.process.poll() is None


def test_a_spool_directory_that_cannot_be_used_is_told_at_the_start(tmp_path: Path) -> None:
    for directory in (f"{tmp_path}/none", "/proc"):
        done = subprocess.run(
            [sys.executable, "-m", "modelserver", "serve", "--port=0", "--admin-listen=off"],
            env={**os.environ, "MODELSERVER_SPOOL_DIRECTORY": directory},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1
        assert f"spool.directory: {directory} cannot be written to" in done.stderr


def test_an_upload_that_is_not_done_at_the_end_of_the_drain_is_told(
    tmp_path: Path, small: models.ModelLocation
) -> None:
    with start_server(
        tmp_path, f"--model={small.directory}", MODELSERVER_WARMUP="none", MODELSERVER_DRAIN_S="0.5"
    ) as server:
        server.wait_ready()
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(
                b"POST /api/audio/convert HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\n"
                b"Content-Length: 100000\r\n\r\nRIFF"
            )
            until(lambda: server.health()["spools"]["open"] == 1)
            server.process.send_signal(signal.SIGTERM)
            answer = read_all(sock)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"shutting_down" in answer
        assert server.process.wait(10) == 0


def test_a_terminal_that_is_closed_ends_the_server_in_it(
    tmp_path: Path, small: models.ModelLocation
) -> None:
    controller, terminal = os.openpty()
    variables = {**os.environ, "MODELSERVER_PORT": "0", "MODELSERVER_ADMIN_LISTEN": "off"}
    variables |= {"MODELSERVER_WARMUP": "none", "MODELSERVER_PREPARE": "never"}

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-m", "modelserver", "serve", f"--model={small.directory}"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=variables,
        preexec_fn=own_terminal,
    )
    os.close(terminal)
    seen = b""
    while b"worker.ready" not in seen:
        seen += os.read(controller, 65536)
    os.close(controller)  # which sends SIGHUP to who is in it
    assert process.wait(20) == 0


def test_a_recording_that_could_never_be_done_in_time_is_refused_at_once(
    tmp_path: Path, small: models.ModelLocation, wav_clips: list[bytes]
) -> None:
    with start_server(
        tmp_path,
        f"--model={small.directory}",
        MODELSERVER_WARMUP="none",
        MODELSERVER_LIMITS_REQUEST_S="1",
    ) as server:
        server.wait_ready()
        for _ in range(6):
            assert server.convert(wav_clips[2]).status == 200
        pace = server.health()["queue"]["s_per_audio_s"]
        long = as_wav(bytes(2 * 16_000 * int(4 / pace)))
        refused = server.convert(long)
        assert (refused.status, refused.json["error"]["code"]) == (413, "too_large_for_server")
        assert "1 s are allowed" in refused.json["error"]["message"]


def hears_sigterm(pid: int) -> bool:
    """It has a handler for it: without one, nothing reaches the first process of a namespace."""
    mask = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:\t")[2].split()[0]
    return bool(int(mask, 16) & 1 << (signal.SIGTERM - 1))


@pytest.mark.parametrize("as_pid_1", [False, True])
def test_sigterm_at_any_moment_of_the_start_ends_it(
    tmp_path: Path, small: models.ModelLocation, as_pid_1: bool
) -> None:
    """In two seconds, with 0 or 143; as a container's first process too, whose interpreter has to
    be there before it can hear anything."""
    program = [sys.executable, "-m", "modelserver", "serve", f"--model={small.directory}"]
    if as_pid_1:
        if os.getuid() != 0:
            pytest.skip("a pid namespace takes root")
        program = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *program]
    variables = {**os.environ, "MODELSERVER_PORT": "0", "MODELSERVER_ADMIN_LISTEN": "off"}
    variables |= {"MODELSERVER_PREPARE": "never"}
    for after_s in (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.5):
        process = subprocess.Popen(
            program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=variables
        )
        time.sleep(after_s)
        server = psutil.Process(process.pid)
        if as_pid_1:
            server = until(lambda s=server: next(iter(s.children()), None))
            until(functools.partial(hears_sigterm, server.pid))
        server.send_signal(signal.SIGTERM)
        assert process.wait(2) in (0, 143, -signal.SIGTERM), after_s


def test_the_supervisor_carries_no_decoder_and_no_engine(server: RunningServer) -> None:
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    for library in ("libav", "libvosk", "numpy", "openblas"):
        assert library not in maps
