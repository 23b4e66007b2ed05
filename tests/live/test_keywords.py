"""Keywords, by every protocol: unclear speech is recognised as a keyword of the client.

The model recognises tones. " cb" is a little louder than " ca" in the audio.
"""

import asyncio
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import test_realtime
import test_wyoming
import websockets
from encoded import raw_samples
from job_client import over, take
from onnx_models import make_model, silence, unclear
from openai import AsyncOpenAI, BadRequestError, OpenAI
from pulse import MOST_S, Pulse
from running import RunningServer, ask, free_port, start_server, until
from test_captions import RAW, connected
from wavs import wav_file
from wyoming.asr import Transcribe

import models

SPEECH = silence(0.5) + unclear(" cb", " ca") + silence(2)
FILE = wav_file(SPEECH)
LONG = wav_file(6 * SPEECH)
SETTINGS = """
workers.count = 1
streams.share = 1
debug.warmup = "none"
debug.long_from_s = 10
debug.long_piece_s = 5
engines.onnx.voice_activity = "loudness"
wyoming.uri = "tcp://127.0.0.1:{port}"
keywords_file = "{home}/all.txt"
[models.tones]
model = "{home}/online"
second_pass = "offline"
[models.offline]
model = "{home}/offline"
[models.own]
model = "{home}/offline"
load = "first_use"
keywords_file = "{home}/own.txt"
[models.ko]
model = "{vosk}"
load = "first_use"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("keywords")
    make_model("online_transducer", home / "online")
    make_model("transducer", home / "offline")
    (home / "all.txt").write_text("")
    (home / "own.txt").write_text("# none yet\n")
    return home


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(home: Path, port: int, small: models.ModelLocation) -> Iterator[RunningServer]:
    settings = home / "settings.toml"
    settings.write_text(SETTINGS.format(home=home, port=port, vosk=small.directory))
    with start_server(home, "--config", str(settings)) as server:
        server.wait_whole()
        yield server


def text(answer: Any) -> str:
    assert answer.status == 200, answer.body
    return str(answer.json["text"])


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["tones", "offline"])
def test_a_file_takes_keywords_in_every_notation(server: RunningServer, model: str) -> None:
    named = f"?model={model}&keywords="
    assert text(server.convert(FILE, named)) == text(server.convert(FILE, named + "gh")) == "cb"
    for keywords in ("ca", "gh&keywords=ca", quote('["gh", "ca"]'), quote("gh\nca\n")):
        answer = server.convert(FILE, named + keywords)
        assert text(answer) == "ca"
        assert "warnings" not in answer.json


def test_fields_of_a_form_and_of_json_are_keywords(server: RunningServer) -> None:
    form = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="keywords%s"\r\n\r\n%s\r\n' % part
        for part in ((b"[]", b"gh"), (b"[]", b"ca"))
    )
    form += b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    url = f"{server.url}/api/audio/convert"
    kind = "multipart/form-data; boundary=x"
    assert text(ask(url, form + FILE + b"\r\n--x--\r\n", Content_Type=kind)) == "ca"


def test_a_long_recording_takes_them_into_its_pieces(server: RunningServer) -> None:
    assert text(server.convert(LONG)).split() == ["cb"] * 6
    assert text(server.convert(LONG, "?keywords=ca")).split() == ["ca"] * 6


def test_a_job_keeps_them(server: RunningServer) -> None:
    done = over(server, take(server, FILE, "?keywords=ca")["id"])
    assert done["result"]["text"] == "ca"


def test_openais_client_sends_keywords_and_prompts(server: RunningServer) -> None:
    def said(**given: Any) -> Any:
        file = io.BytesIO(FILE)
        file.name = "speech.wav"
        return client.audio.transcriptions.create(file=file, model="tones", **given)

    with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        assert said().text == "cb"
        assert said(keywords=["gh", "ca"]).text == said(prompt="Glossary: gh, ca").text == "ca"
        assert said(keywords=[f"g{n}" for n in range(999)] + ["ca"]).text == "ca"
        assert said(prompt='They say "ca" quite often.').text == "ca"
        prose = said(prompt="They say nothing of it.")
    assert prose.text == "cb"
    assert prose.model_extra["warnings"][0].startswith("prompt: no names or terms")


# --- streams --------------------------------------------------------------------------------------


async def test_our_own_stream_and_its_second_pass_take_them(
    server: RunningServer, described: dict[str, Any]
) -> None:
    for keywords, expected in (("", "cb"), ("&keywords=gh&keywords=ca", "ca")):
        query = f"{RAW}&second_pass=true{keywords}"
        async with connected(server, described, query) as client:
            await client.send(SPEECH)
            await client.tell("close")
            end = await client.until("end")
        finals = [one["text"] for one in client.said if one["type"] in ("final", "revised")]
        assert [said for said in finals if said] == [expected, expected]
        assert end["warnings"] == []


async def test_the_vosk_protocol_takes_them_in_its_configuration(server: RunningServer) -> None:
    async def said(**config: Any) -> str:
        async with websockets.connect(server.url.replace("http", "ws", 1)) as socket:
            await socket.send(json.dumps({"config": {"sample_rate": 16_000, **config}}))
            await socket.send(SPEECH)
            first = json.loads(await socket.recv())
            await socket.send('{"eof": 1}')
            last = json.loads(await socket.recv())
            return str(first.get("text") or last["text"])

    assert await said() == "cb"
    assert await said(keywords=["gh", "ca"]) == "ca"
    with pytest.raises(websockets.ConnectionClosedError, match=r"1008.*keywords"):
        await said(keywords=["x" * 201])


async def test_wyoming_takes_names_and_terms(server: RunningServer, port: int) -> None:
    async def said(**given: Any) -> str:
        asked = Transcribe(name="tones", **given)
        return test_wyoming.whole_text(await test_wyoming.transcribe(port, SPEECH, asked))

    assert server.url
    assert await said() == "cb"
    assert await said(transcript_names=["ca"]) == "ca"
    assert await said(transcript_terms=["gh", "ca"]) == "ca"
    # Its clients read no error: unusable keywords are left out.
    assert await said(transcript_names=["x" * 300, 7, "ca"]) == "ca"
    assert await said(transcript_names=[f"g{n}" for n in range(3000)]) == "cb"


async def test_realtime_sessions_take_keywords_and_prompts(
    server: RunningServer, described: dict[str, Any]
) -> None:
    samples = raw_samples(SPEECH, "s16le", 24_000)
    completed = f"{test_realtime.TRANSCRIPTION}.completed"
    async with test_realtime.connected(server, described) as session:
        for given, expected in (
            ({}, "cb"),
            ({"keywords": ["gh", "ca"]}, "ca"),
            ({"keywords": [], "prompt": "gh, ca"}, "ca"),
            ({"prompt": ""}, "cb"),
        ):
            asked = {"model": "tones", **given}
            effective = await session.update(transcription=asked, turn_detection=None)
            assert effective.transcription.prompt == (given.get("prompt") or None)
            assert effective.transcription.keywords == (given.get("keywords") or None)
            await session.append(samples)
            await session.connection.input_audio_buffer.commit()
            assert (await session.next(completed)).transcript == expected
        await session.connection.session.update(
            session={
                "type": "transcription",
                "audio": {"input": {"transcription": {"keywords": ["x" * 300]}}},
            }
        )
        refused = (await session.next("error")).error
    assert refused.param == "session.audio.input.transcription.keywords"


async def test_a_client_secret_carries_keywords(
    server: RunningServer, described: dict[str, Any]
) -> None:
    def session(*keywords: str) -> Any:
        transcription = {"model": "tones", "keywords": keywords}
        given = {"transcription": transcription, "turn_detection": None}
        return {"type": "transcription", "audio": {"input": given}}

    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        made = await client.realtime.client_secrets.create(session=session("ca"))
        async with test_realtime.connected(server, described, api_key=made.value) as opened:
            await opened.append(raw_samples(SPEECH, "s16le", 24_000))
            await opened.connection.input_audio_buffer.commit()
            last = await opened.next(f"{test_realtime.TRANSCRIPTION}.completed")
        assert last.transcript == "ca"
        many = session(*(f"word number {n}" for n in range(500)))
        with pytest.raises(BadRequestError, match="4096 are allowed in a client secret"):
            await client.realtime.client_secrets.create(session=many)


# --- commands -------------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "modelserver", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_commands_take_them(server: RunningServer, tmp_path: Path) -> None:
    file, words = tmp_path / "speech.wav", tmp_path / "words.txt"
    file.write_bytes(FILE)
    words.write_text("ca\n")
    to = ("--server", server.url, str(file))
    assert run("transcribe", *to) == "cb"
    assert run("transcribe", "--keywords", "gh, ca", *to) == "ca"
    assert run("transcribe", "--keywords-file", str(words), *to) == "ca"
    url = server.url.replace("http", "ws", 1)
    assert run("listen", "--fast", "--server", url, "--keywords", "gh,ca", str(file)) == "ca"


# --- the file of a model --------------------------------------------------------------------------


def test_the_file_of_a_model_is_read_again_when_it_changes(
    server: RunningServer, home: Path
) -> None:
    def said() -> str:
        return text(server.convert(FILE, "?model=own"))

    def write(content: bytes, event: str) -> dict[str, Any]:
        seen = len(server.events())
        (home / "own.txt").write_bytes(content)
        found: dict[str, Any] = server.wait_event(event, seen)
        return found

    assert said() == "cb"
    write(b"\xef\xbb\xbf# names\r\ngh\r\nca  # the one\r\n", "keywords.read")
    assert said() == "ca"
    assert text(server.convert(FILE, "?model=own&keywords=cb")) == "cb"
    assert text(server.convert(FILE, "?model=offline")) == "cb"
    refused = write(b"gh\n\xff\xfe\n", "keywords.rejected")
    assert "own.txt, line 2: not UTF-8" in refused["reason"]
    assert said() == "ca"
    refused = write(b"\n\n" + b"x" * 300, "keywords.rejected")
    assert "line 3" in refused["reason"]
    assert (refused["label"], refused["keywords"]) == ("own", 2)
    (home / "own.txt").unlink()
    server.wait_event("keywords.rejected", reason=f"{home}/own.txt cannot be read: "
                      "No such file or directory")  # fmt: skip
    assert said() == "ca"
    write(b"gh\n", "keywords.read")
    assert said() == "cb"
    reasons = [event["reason"] for event in server.events("keywords.rejected")]
    assert len(reasons) == len(set(reasons))


def test_the_file_for_all_models_holds_where_a_model_has_none(
    server: RunningServer, home: Path
) -> None:
    seen = len(server.events())
    (home / "all.txt").write_text("ca\n")
    try:
        until(lambda: len([e for e in server.events()[seen:] if e["event"] == "keywords.read"]) > 1)
        assert text(server.convert(FILE, "?model=offline")) == "ca"
        assert text(server.convert(FILE, "?model=own")) == "cb"
        # A client is not warned of words that it has not sent.
        answer = server.convert(FILE, "?model=ko")
        assert "warnings" not in answer.json
    finally:
        seen = len(server.events())
        (home / "all.txt").write_text("")
        until(lambda: len([e for e in server.events()[seen:] if e["event"] == "keywords.read"]) > 1)


def test_another_file_takes_effect_with_a_reload(server: RunningServer, home: Path) -> None:
    settings = home / "settings.toml"
    before = settings.read_text()
    (home / "other.txt").write_text("ca\n")
    assert text(server.convert(FILE, "?model=offline")) == "cb"
    try:
        for content, expected in (
            (before.replace("all.txt", "other.txt"), "ca"),
            (before.replace("all.txt", "none.txt"), "cb"),
        ):
            settings.write_text(content)
            server.process.send_signal(signal.SIGHUP)
            until(lambda: text(server.convert(FILE, "?model=offline")) == expected)  # noqa: B023
    finally:
        settings.write_text(before)
        server.process.send_signal(signal.SIGHUP)
    reason = f"{home}/none.txt cannot be read: No such file or directory"
    server.wait_event("keywords.rejected", reason=reason)


# --- rejected requests ----------------------------------------------------------------------------


async def test_what_a_model_cannot_do_with_them_is_said(
    server: RunningServer, described: dict[str, Any]
) -> None:
    (warning,) = server.convert(FILE, "?model=tones&keywords=ca&keywords=" + quote("你好")).json[
        "warnings"
    ]
    assert warning == "keywords that the model has no letters or no room for: 你好"
    (warning,) = server.convert(FILE, "?model=ko&keywords=ca").json["warnings"]
    assert warning.startswith("keywords: this model cannot prefer them; the text step vocabulary")
    async with connected(server, described, f"{RAW}&model=ko&keywords=ca") as client:
        await client.tell("close")
        assert (await client.until("end"))["warnings"] == [warning]


def test_too_many_keywords_are_refused_and_keep_nobody_waiting(server: RunningServer) -> None:
    url = f"{server.url}/api/audio/convert"

    def form(*fields: bytes) -> bytes:
        head = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
        parts = b"".join(head % (b"keywords", b"", field) for field in fields)
        return parts + head % (b"file", b'; filename="a.wav"', FILE) + b"--x--\r\n"

    words = b"\n".join(b"w%d" % n for n in range(10_000))
    bodies = {
        "bad_parameter": [
            form(words),
            form(words + b"\nw"),
            form(json.dumps([f"w{n}" for n in range(2000)]).encode()),
            form(b"a" * 201),
            form(b"a\x00b"),
            form(b'["a", 1]'),
        ],
        "body_too_large": [
            form(b"x" * 1_000_000),
            form(*(b"x" * 150 for _ in range(600))),
            form(*(b"%d" % n + b"x" * 1000 for n in range(90))),
        ],
    }
    with Pulse(server.port) as pulse:
        for code, refused in bodies.items():
            for body in refused:
                answer = ask(url, body, Content_Type="multipart/form-data; boundary=x")
                assert answer.json.get("error", {}).get("code") == code, (answer, body[:150])
    assert pulse.worst_s < MOST_S
    for harmless in ("(.*)+[", "/", ":1", "#0.5", "@x", "<unk>", "%s", "qx3", "", " \n "):
        assert text(server.convert(FILE, f"?keywords={quote(harmless)}")) == "cb"
    ended = {event["cause"] for event in server.events("worker.exited")}
    assert ended <= {"recycled", "shutdown"}  # by a reload


async def test_many_streams_with_a_thousand_keywords_each(
    server: RunningServer, described: dict[str, Any]
) -> None:
    letters = "abdefgh"
    many = [a + b + c for a in letters for b in letters for c in letters] + [
        a + b + c + "a" for a in letters for b in letters for c in letters
    ]

    async def said(socket: websockets.ClientConnection) -> str:
        config = {"sample_rate": 16_000, "keywords": [*many, "ca"]}
        await socket.send(json.dumps({"config": config}))
        await socket.send(SPEECH)
        first = json.loads(await socket.recv())
        await socket.send('{"eof": 1}')
        last = json.loads(await socket.recv())
        return str(first.get("text") or last["text"])

    url = server.url.replace("http", "ws", 1)
    async with asyncio.timeout(60):
        sockets = [await websockets.connect(url) for _ in range(4)]
        assert await asyncio.gather(*map(said, sockets)) == ["ca"] * 4
        for socket in sockets:
            await socket.close()
