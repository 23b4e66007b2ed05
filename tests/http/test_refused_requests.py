"""Refused requests: each with the status, the code and the format of an error."""

import json
import socket
from pathlib import Path

import pytest
import wavs
from by_hand import FORM, check_error, form, read_all, said
from running import RunningServer, start_server
from wavs import wav_file

import models


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
        (form(("f", "a", wav_file(b"")), ("g", "b", wav_file(b""))), FORM, 400, "too_many_files"),
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
    check_error(server.convert(wav_file(b""), "?words=perhaps"), 400, "bad_parameter")


def test_what_is_not_http_gets_an_error_document(server: RunningServer) -> None:
    start = b"GET / HTTP/1.1\r\n"
    for garbage, status, code in (
        (b"hello\r\n\r\n", 400, "bad_request"),
        (b"FOO / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (start + b"X: " + b"x" * 20_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (start + b"X: x\r\n" * 200 + b"\r\n", 431, "headers_too_large"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 431, "headers_too_large"),
    ):
        answer = said(server, garbage)
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["code"]) == (status, code)
        assert error["message"][-1].isalpha()
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


@pytest.mark.parametrize("limit", ["request", "upload"])
def test_time_limits_are_kept(tmp_path: Path, clips: list[bytes], limit: str) -> None:
    with start_server(
        tmp_path, MODELSERVER_LIMITS_REQUEST_S="0.5", MODELSERVER_LIMITS_UPLOAD_IDLE_S="0.5"
    ) as server:
        server.wait_ready()
        if limit == "request":
            long = wav_file(b"".join(clips) * 10)
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


def test_a_recording_that_could_never_be_done_in_time_is_refused_at_once(
    tmp_path: Path, small: models.ModelLocation, wav_clips: list[bytes]
) -> None:
    with start_server(
        tmp_path, f"--model={small.directory}", MODELSERVER_LIMITS_REQUEST_S="5"
    ) as server:
        server.wait_ready()
        for _ in range(6):
            assert server.convert(wav_clips[2]).status == 200
        pace = server.health()["queue"]["s_per_audio_s"]
        long = wav_file(bytes(2 * 16_000 * int(20 / pace)))
        refused = server.convert(long)
        assert (refused.status, refused.json["error"]["code"]) == (413, "too_large_for_server")
        assert "5 s are allowed" in refused.json["error"]["message"]
