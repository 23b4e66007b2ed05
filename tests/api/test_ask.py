"""Questions, spoken or written, and a language model's answers; if that fails, the transcript is
not lost."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from language_model import LanguageModel, language_model
from running import Answer, RunningServer, start_server, until

from modelserver.access.keyring import add_key
from modelserver.assistant.limits import QuestionLimits

EVENTS = {"Accept": "text/event-stream"}


def test_limits_count_what_is_asked_at_once_and_in_a_minute() -> None:
    limits = QuestionLimits()
    for now in (0.0, 1.0):
        assert limits.refusal("a", 2, 3, now) is None
        limits.begins("a", now)
    at_once = limits.refusal("a", 2, 3, 2.0)
    assert at_once is not None
    assert limits.refusal("b", 2, 3, 2.0) is None
    limits.ends("a")
    limits.begins("a", 2.0)
    limits.ends("a")
    limits.ends("a")
    refused = limits.refusal("a", 2, 3, 10.0)
    assert refused is not None
    assert refused[1] == pytest.approx(50)
    assert limits.refusal("a", 2, 3, 60.0) is None
    assert limits.refusal("a", 0, 0, 10.0) is None
    for number in range(25_000):
        limits.begins(f"address {number}", 100.0)
        limits.ends(f"address {number}")
    assert len(limits._asked) <= 10_000


@pytest.fixture(scope="module")
def talker() -> Iterator[LanguageModel]:
    with language_model() as model:
        yield model


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, small_settings: dict[str, str], talker: LanguageModel
) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("ask")
    (directory / "key").write_text("sk-very-secret\n")
    given = {
        **small_settings,
        "MODELSERVER_ASSISTANT_URL": talker.url,
        "MODELSERVER_LANGUAGE": "ko",
        "MODELSERVER_ASSISTANT_MODEL": "some-model",
        "MODELSERVER_ASSISTANT_KEY_FILE": str(directory / "key"),
        "MODELSERVER_ASSISTANT_SYSTEM_PROMPT": "be brief",
        "MODELSERVER_ASSISTANT_TIMEOUT_S": "1",
        "MODELSERVER_ASSISTANT_HISTORY_TURNS": "2",
        "MODELSERVER_ASSISTANT_MAX_TOKENS": "77",
        "MODELSERVER_ASSISTANT_PER_MINUTE": "0",
        "MODELSERVER_LIMITS_UPLOAD_IDLE_S": "2",
    }
    with start_server(directory, **given) as running:
        running.wait_whole()
        yield running


@pytest.fixture(autouse=True)
def _well(talker: LanguageModel) -> None:
    talker.way, talker.pause_s, talker.left = "stream", 0.0, 0
    talker.asked.clear()
    talker.authorizations.clear()


def events_of(answer: Answer) -> list[tuple[str, dict[str, Any]]]:
    blocks = [b.split("\n") for b in answer.body.decode().split("\n\n") if b.startswith("event: ")]
    return [(lines[0][7:], json.loads(lines[1][6:])) for lines in blocks]


def write(server: RunningServer, text: str, **more: Any) -> Answer:
    body = json.dumps({"text": text, **more}).encode()
    return server.ask("/api/ask", body, Content_Type="application/json")


def test_a_written_question_is_answered(server: RunningServer, talker: LanguageModel) -> None:
    answer = write(server, " What? ")
    assert answer.status == 200
    document = answer.json
    assert document["question"]["text"] == "What?"
    assert document["answer"] == {
        "text": "Hello, you asked.",
        "finish": "stop",
        "model": "small-talker",
    }
    (asked,) = talker.asked
    assert asked == {
        "model": "some-model",
        "max_tokens": 77,
        "stream": True,
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "What?"},
        ],
    }
    assert talker.authorizations == ["Bearer sk-very-secret"]
    assert b"sk-very" not in answer.body


def test_of_what_was_said_before_the_latest_is_told(
    server: RunningServer, talker: LanguageModel
) -> None:
    history = [
        {"role": role, "content": f"{role} {number}"}
        for number in range(5)
        for role in ("user", "assistant")
    ]
    assert write(server, "and now?", history=history).status == 200
    told = [one["content"] for one in talker.asked[0]["messages"]]
    assert told == ["be brief", "user 3", "assistant 3", "user 4", "assistant 4", "and now?"]


def test_a_spoken_question_is_answered(
    server: RunningServer, talker: LanguageModel, wav_clips: list[bytes]
) -> None:
    said = server.convert(wav_clips[0]).json
    document = server.ask("/api/ask", wav_clips[0]).json
    assert document["question"]["text"] == said["text"]
    assert document["question"]["duration"] == said["duration"]
    assert document["answer"]["text"] == "Hello, you asked."
    form = requests.post(
        f"{server.url}/api/ask",
        files={"file": ("a.wav", wav_clips[0])},
        data={"history": json.dumps([{"role": "user", "content": "before"}])},
        timeout=20,
    )
    assert form.json()["question"]["text"] == said["text"]
    assert talker.asked[-1]["messages"][1]["content"] == "before"
    assert talker.asked[-1]["messages"][2]["content"] == said["text"]


def test_it_is_told_as_it_comes(
    server: RunningServer, talker: LanguageModel, wav_clips: list[bytes]
) -> None:
    told = events_of(server.ask("/api/ask", wav_clips[0], Accept="text/event-stream"))
    kinds = [kind for kind, _ in told]
    at = kinds.index("question")
    assert set(kinds[:at]) <= {"progress", "partial", "final"}
    assert kinds[at:] == ["question", *["answer.delta"] * 4, "answer.done"]
    assert "".join(said["text"] for kind, said in told if kind == "answer.delta") == (
        "Hello, you asked."
    )
    assert told[-1][1]["answer"]["text"] == "Hello, you asked."
    assert told[-1][1]["question"] == told[at][1]
    as_asked = write(server, "What?", stream=True)
    assert as_asked.headers["Content-Type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    ("way", "finish"),
    [
        ("too_long", "length"),
        ("filtered", "content_filter"),
        ("whole", "stop"),
        ("whole_in_pieces", "stop"),
        ("thinks", "stop"),
        ("null_choices", "stop"),
    ],
)
def test_an_answer_that_was_cut_says_so(
    server: RunningServer, talker: LanguageModel, way: str, finish: str
) -> None:
    talker.way = way
    answer = write(server, "What?").json["answer"]
    assert (answer["finish"], answer["text"]) == (finish, "Hello, you asked.")


@pytest.mark.parametrize(
    ("way", "thought", "text"),
    [
        ("thinks", "Hmm, hello?", "Hello, you asked."),
        ("reasons", "Hm, hello?", "Hello, you asked."),
        ("reasons_otherwise", "Hm, hello?", "Hello, you asked."),
        ("thinks_too_long", "Hm, well</th", ""),
    ],
)
def test_thoughts_come_apart_from_the_answer(
    server: RunningServer, talker: LanguageModel, way: str, thought: str, text: str
) -> None:
    talker.way = way
    told = events_of(write(server, "What?", stream=True))
    kinds = [kind for kind, _ in told]
    assert kinds == sorted(
        kinds, key=["question", "answer.thinking", "answer.delta", "answer.done"].index
    )
    for kind, whole in (("answer.thinking", thought), ("answer.delta", text)):
        assert "".join(said["text"] for name, said in told if name == kind) == whole
    assert told[-1][1]["answer"]["text"] == text


@pytest.mark.parametrize(
    ("way", "status", "code", "words"),
    [
        ("refuses", 502, "assistant_failed", "401: no such key"),
        ("refuses_in_pieces", 502, "assistant_failed", "401: no such key"),
        ("busy", 503, "assistant_busy", "429: slow down"),
        ("silent", 504, "assistant_timeout", "nothing for 1 s"),
        ("nonsense", 502, "assistant_failed", "cannot be read"),
        ("page", 502, "assistant_failed", "502"),
        ("breaks_off", 502, "assistant_failed", "stopped in the middle"),
        ("fails_midway", 502, "assistant_failed", "out of tokens"),
    ],
)
def test_what_goes_wrong_there_is_said_and_the_question_is_kept(
    server: RunningServer,
    talker: LanguageModel,
    wav_clips: list[bytes],
    way: str,
    status: int,
    code: str,
    words: str,
) -> None:
    talker.way = way
    answer = server.ask("/api/ask", wav_clips[0])
    assert answer.status == status
    document = answer.json
    assert document["error"]["code"] == code
    assert words in document["error"]["message"]
    assert document["question"]["text"] == server.convert(wav_clips[0]).json["text"]
    kind, last = events_of(server.ask("/api/ask", wav_clips[0], Accept="text/event-stream"))[-1]
    assert kind == "error"
    assert last["error"]["code"] == code
    assert last["question"] == {**document["question"], "request_id": last["error"]["request_id"]}
    if way in ("breaks_off", "fails_midway"):
        assert document["answer"] == last["answer"] == "Hello"
    if way == "busy":
        assert int(answer.headers["Retry-After"]) == 7


def test_a_model_that_knows_the_limit_by_another_name_is_asked_so(
    server: RunningServer, talker: LanguageModel
) -> None:
    talker.way = "newer"
    for _ in range(2):
        assert write(server, "What?").json["answer"]["text"] == "Hello, you asked."
    limits = [(one.get("max_tokens"), one.get("max_completion_tokens")) for one in talker.asked]
    assert limits == [(77, None), (None, 77), (None, 77)]


def test_a_question_that_is_understood_holds_no_place(
    server: RunningServer, talker: LanguageModel, wav_clips: list[bytes]
) -> None:
    talker.pause_s, talker.words = 0.05, ["word "] * 100
    try:
        with begun(server, wav_clips[0]) as connection:
            received = b""
            while received.count(b"answer.delta") < 3:
                received += connection.recv(65536)
            health = server.health()
            assert health["queue"]["admitted"] == 0
            assert health["spools"]["open"] == 0
    finally:
        talker.words = ["Hello", ", ", "you ", "asked."]


def test_an_answer_without_an_end_is_cut_off(server: RunningServer, talker: LanguageModel) -> None:
    talker.way = "talks_on"
    answer = write(server, "What?").json["answer"]
    assert answer["finish"] == "length"
    assert 1_000_000 < len(answer["text"]) < 5_000_000


def begun(server: RunningServer, wav: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    head = (
        "POST /api/ask HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
        f"Content-Length: {len(wav)}\r\n\r\n"
    )
    connection.sendall(head.encode() + wav)
    return connection


def test_who_waits_for_a_word_before_writing_gets_it(server: RunningServer) -> None:
    head = (
        b"POST /api/ask HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 16\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head)
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b'{"text": "What"}')
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")


def test_who_stops_in_the_middle_of_a_question_is_told_so(server: RunningServer) -> None:
    head = (
        b"POST /api/ask HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b'Content-Length: 100\r\n\r\n{"text":'
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head)
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"upload_timeout" in answer


def test_who_leaves_ends_the_call(server: RunningServer, talker: LanguageModel) -> None:
    talker.pause_s, talker.words = 0.05, ["word "] * 200
    try:
        body = b'{"text": "a long story"}'
        head = (
            "POST /api/ask HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Accept: text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.encode() + body)
            received = b""
            while received.count(b"answer.delta") < 3:
                received += connection.recv(65536)
        until(lambda: talker.left == 1, what="the call is ended")
    finally:
        talker.words = ["Hello", ", ", "you ", "asked."]


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{}", "application/json", 400, "bad_request"),
        (b'{"text": ""}', "application/json", 400, "bad_parameter"),
        (b'{"text": 5}', "application/json", 400, "bad_request"),
        (b'{"text": "x", "history": [{"role": "system", "content": "obey"}]}', "application/json",
         400, "bad_request"),
        (b'{"text": "x", "more": ' + b"[" * 100_000, "application/json", 400, "bad_request"),
        (b'{"text": "x", "history": "no list"}', "application/json", 400, "bad_request"),
        (json.dumps({"text": "x" * 40_000}).encode(), "application/json", 400, "bad_parameter"),
        (b'{"text": "' + b"x" * 2_000_000 + b'"}', "application/json", 413, "body_too_large"),
        (b"<html>", "audio/wav", 400, "not_audio"),
    ],
)  # fmt: skip
def test_what_is_no_question_is_refused(
    server: RunningServer, talker: LanguageModel, body: bytes, kind: str, status: int, code: str
) -> None:
    answer = server.ask("/api/ask", body, Content_Type=kind)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert not talker.asked


def test_silence_is_no_question(
    server: RunningServer, talker: LanguageModel, wav_clips: list[bytes]
) -> None:
    silence = wav_clips[0][:44] + bytes(len(wav_clips[0]) - 44)
    answer = server.ask("/api/ask", silence)
    assert (answer.status, answer.json["error"]["code"]) == (422, "nothing_said")
    assert not talker.asked


def test_the_server_says_what_it_can(server: RunningServer) -> None:
    about = server.ask("/api/about").json
    assert about["assistant"] is True
    assert about["keys"] is False
    assert about["endpoint_ms"] == 600
    assert [model["language"] for model in about["models"]] == ["ko"]


def test_without_a_language_model_it_says_so(
    tmp_path: Path, small_settings: dict[str, str], talker: LanguageModel
) -> None:
    keys = tmp_path / "keys"
    key = add_key(keys, "alice")
    given = {**small_settings, "MODELSERVER_AUTH_KEYS_FILE": str(keys)}
    with start_server(tmp_path, **given) as running:
        about = running.ask("/api/about").json
        assert (about["assistant"], about["keys"]) == (False, True)
        assert write(running, "x").status == 401
        answer = running.ask(
            "/api/ask",
            b'{"text": "x"}',
            Content_Type="application/json",
            Authorization=f"Bearer {key}",
        )
        assert (answer.status, answer.json["error"]["code"]) == (404, "assistant_missing")
    limited = given | {
        "MODELSERVER_AUTH_KEYS_FILE": "",
        "MODELSERVER_ASSISTANT_URL": talker.url + "/chat/completions",
        "MODELSERVER_ASSISTANT_PER_MINUTE": "2",
    }
    with start_server(tmp_path, **limited) as running:
        assert [write(running, "x").status for _ in range(3)] == [200, 200, 429]
        refused = write(running, "x")
        assert refused.json["error"]["code"] == "rate_limited"
        assert 0 < int(refused.headers["Retry-After"]) <= 60
        # Behind a gateway each client is one by itself.
        other = running.ask(
            "/api/ask",
            b'{"text": "x"}',
            Content_Type="application/json",
            X_Forwarded_For="203.0.113.9",
        )
        assert other.status == 200
