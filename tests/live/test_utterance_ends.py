"""Ends of utterances as a client wants them, on every protocol, with a model of each engine."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import job_client
import openai
import pytest
import test_realtime
import test_vosk_protocol
import websockets
from encoded import raw_samples
from onnx_models import make_model, silence, tones
from openai import OpenAI
from running import RunningServer, start_server, until
from test_captions import RAW, Client, connected
from wavs import wav_file

import models
from models.vosk.prepared import PreparedModel

SETTINGS = """
workers.count = 1
streams.share = 1
debug.warmup = "none"
engines.onnx.voice_activity = "loudness"
[models.vosk]
model = "{vosk}"
[models.onnx]
model = "{onnx}"
"""
ENGINES = ("vosk", "onnx")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    embedded: models.ModelLocation,
    prepared_embedded: PreparedModel,
) -> Iterator[RunningServer]:
    assert prepared_embedded
    directory = tmp_path_factory.mktemp("endpoints")
    onnx = make_model("online_transducer", directory / "onnx")
    file = directory / "settings.toml"
    file.write_text(SETTINGS.format(vosk=embedded.directory, onnx=onnx))
    with start_server(directory, "--config", str(file)) as running:
        until(lambda: [w["state"] for w in running.health()["workers"]] == ["idle"] * 2, 60)
        yield running


@pytest.fixture(scope="module")
def spoken(clips: list[bytes]) -> dict[str, bytes]:
    """Two sentences, with a pause of 0.5 s between them; the first one has shorter pauses, and
    so has the last letter of each tone."""
    sentences = clips[0], clips[2]
    texts = tones("abcabcabc"), tones("defdefdef")
    return {
        engine: silence(0.5) + first + silence(0.5) + second + silence(3)
        for engine, (first, second) in {"vosk": sentences, "onnx": texts}.items()
    }


async def heard(
    server: RunningServer, described: dict[str, Any], engine: str, pcm: bytes, query: str = ""
) -> Client:
    async with connected(server, described, f"{RAW}&model={engine}&words=true{query}") as client:
        await client.send(pcm)
        await client.tell("close")
        await client.end()
    assert client.said[-1]["type"] == "end", client.said[-1]
    return client


def texts_of(document: dict[str, Any]) -> list[str]:
    return [segment["text"] for segment in document["segments"]]


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_stream_ends_its_segments_after_the_pause_that_was_asked_for(
    server: RunningServer, described: dict[str, Any], spoken: dict[str, bytes], engine: str
) -> None:
    short = await heard(server, described, engine, spoken[engine], "&endpoint_ms=300")
    long = await heard(
        server, described, engine, spoken[engine], "&endpoint_ms=2500&max_utterance_s=30"
    )
    assert len(short.finals) >= 2
    assert len(long.finals) == 1
    for client in (short, long):
        words = [word for final in client.finals for word in final["words"]]
        starts = [word["start"] for word in words]
        assert starts == sorted(starts)
        assert words


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_stream_ends_a_segment_that_is_too_long(
    server: RunningServer, described: dict[str, Any], spoken: dict[str, bytes], engine: str
) -> None:
    client = await heard(
        server, described, engine, spoken[engine], "&endpoint_ms=3000&max_utterance_s=1.5"
    )
    assert len(client.finals) >= 3
    assert all(final["end"] - final["start"] <= 1.55 for final in client.finals)
    if engine == "onnx":
        assert "".join(final["text"] for final in client.finals) == "abcabcabcdefdefdef"


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_killed_worker_changes_nothing(
    server: RunningServer, described: dict[str, Any], spoken: dict[str, bytes], engine: str
) -> None:
    query, pcm = "&endpoint_ms=400&max_utterance_s=2", spoken[engine]
    undisturbed = await heard(server, described, engine, pcm, query)
    before = server.health()["streams"]["replays"]
    async with connected(server, described, f"{RAW}&model={engine}&words=true{query}") as client:
        for at in range(0, len(pcm), len(pcm) // 4):
            await client.send(pcm[at : at + len(pcm) // 4])
            await client.until("final")
            for worker in server.health()["workers"]:
                if worker["model"] == engine:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker["pid"], signal.SIGKILL)
        await client.tell("close")
        await client.end()
    assert client.finals == undisturbed.finals
    assert client.said[-1] == undisturbed.said[-1]
    assert server.health()["streams"]["replays"] > before
    until(lambda: [w["state"] for w in server.health()["workers"]] == ["idle"] * 2, 30)


@pytest.mark.parametrize("engine", ENGINES)
def test_files_and_jobs_end_their_segments_after_that_pause(
    server: RunningServer, spoken: dict[str, bytes], engine: str
) -> None:
    wav = wav_file(spoken[engine])
    query = f"?model={engine}&segments=true&endpoint_ms="
    short = server.convert(wav, query + "300").json
    long = server.convert(wav, f"{query}2500&max_utterance_s=30").json
    assert len(texts_of(short)) >= 2
    assert len(texts_of(long)) == 1
    job = job_client.take(server, wav, query + "300")
    found = job_client.over(server, job["id"])["result"]["segments"]
    assert [one["start"] for one in found] == [one["start"] for one in short["segments"]]
    job = job_client.take(server, wav, f"{query}2500&max_utterance_s=30")
    assert len(texts_of(job_client.over(server, job["id"])["result"])) == 1


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_vosk_projects_client_sends_them_in_its_config(
    server: RunningServer, spoken: dict[str, bytes], engine: str
) -> None:
    async def finals(**config: Any) -> list[str]:
        async with test_vosk_protocol.connected(server, f"/?model={engine}") as client:
            said = await test_vosk_protocol.converse(
                client, spoken[engine], sample_rate=16_000, **config
            )
        return [json.loads(one)["text"] for one in said if '"text" : "' in one]

    short = [text for text in await finals(endpoint_ms=300) if text]
    long = [text for text in await finals(endpoint_ms="2500", max_utterance_s=30) if text]
    assert len(short) >= 2
    assert len(long) == 1


def test_the_terminal_sends_them(server: RunningServer, spoken: dict[str, bytes]) -> None:
    url = server.url.replace("http", "ws", 1) + "/"
    command = [sys.executable, "-m", "modelserver", "listen", "--server", url, "--model", "onnx"]
    lines = {
        endpoint_ms: subprocess.run(
            [*command, "--endpoint-ms", endpoint_ms, "-"],
            input=spoken["onnx"],
            capture_output=True,
            timeout=60,
            check=True,
        ).stdout.split()
        for endpoint_ms in ("300", "2500")
    }
    assert lines == {"300": [b"abcabcabc", b"defdefdef"], "2500": [b"abcabcabcdefdefdef"]}


def test_files_of_the_terminal_have_them(
    server: RunningServer, spoken: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "spoken.wav").write_bytes(wav_file(spoken["onnx"]))
    command = [sys.executable, "-m", "modelserver", "transcribe", "--server", server.url]
    command += ["--model", "onnx", "-f", "json", "--max-utterance-s", "1.5"]
    done = subprocess.run(
        [*command, str(tmp_path / "spoken.wav")], capture_output=True, timeout=60, check=True
    )
    assert len(texts_of(json.loads(done.stdout)["speech"])) >= 4


@pytest.mark.parametrize("engine", ENGINES)
async def test_openais_realtime_client_has_silence_duration_ms(
    server: RunningServer, described: dict[str, Any], spoken: dict[str, bytes], engine: str
) -> None:
    transcripts = {}
    for pause_ms in (300, 2500):
        async with test_realtime.connected(server, described) as session:
            effective = await session.update(
                transcription={"model": engine},
                turn_detection={"type": "server_vad", "silence_duration_ms": pause_ms},
            )
            assert effective.turn_detection.silence_duration_ms == pause_ms
            await session.append(raw_samples(spoken[engine], "s16le", 24_000))
            completed = f"{test_realtime.TRANSCRIPTION}.completed"
            await session.next(completed)
            if pause_ms == 300:
                await session.next(completed, 2)
        transcripts[pause_ms] = [one.transcript for one in session.of(completed)]
        assert not session.of("error")
    assert len(transcripts[300]) >= 2
    assert len(transcripts[2500]) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_openais_file_client_has_silence_duration_ms(
    server: RunningServer, spoken: dict[str, bytes], engine: str
) -> None:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    count = {}
    for pause_ms in (300, 2500):
        made = client.audio.transcriptions.create(
            file=("speech.wav", wav_file(spoken[engine])),
            model=engine,
            response_format="verbose_json",
            chunking_strategy={"type": "server_vad", "silence_duration_ms": pause_ms},
        )
        count[pause_ms] = len(made.segments or [])
    assert count[300] >= 2
    assert count[300] > count[2500]


HOSTILE = ["nan", "1e9", "-300", "abc", "9" * 4500, "true"]


@pytest.mark.parametrize("value", HOSTILE)
async def test_wrong_values_are_refused_with_the_range(
    server: RunningServer, described: dict[str, Any], spoken: dict[str, bytes], value: str
) -> None:
    for name, allowed in (("endpoint_ms", "100 to 10000"), ("max_utterance_s", "1 to 60")):
        answer = server.convert(wav_file(silence(0.1)), f"?{name}={quote(value)}")
        assert (answer.status, answer.json["error"]["code"]) == (400, "bad_parameter")
        assert f"expected {allowed}" in answer.json["error"]["message"]
        async with connected(server, described, f"{RAW}&{name}={quote(value)}") as client:
            (said,) = await client.end()
            assert f"expected {allowed}" in said["error"]["message"]
        async with test_vosk_protocol.connected(server) as socket:
            given = value if value in ("-300", "1e9", "true") or len(value) > 9 else f'"{value}"'
            await socket.send(f'{{"config": {{"{name}": {given}}}}}')
            with pytest.raises(websockets.ConnectionClosed):
                await socket.recv()
            assert socket.close_code == (1003 if len(given) > 4300 else 1008)  # is not JSON


async def test_openais_clients_are_refused_wrong_values(
    server: RunningServer, described: dict[str, Any]
) -> None:
    async with test_realtime.connected(server, described) as session:
        for value in (99, 10_001, -1, 10**30, "300", 1.5):
            await session.connection.session.update(
                session={
                    "type": "transcription",
                    "audio": {"input": {"turn_detection": {
                        "type": "server_vad", "silence_duration_ms": value,  # type: ignore[typeddict-item]
                    }}},
                }
            )  # fmt: skip
            error = (await session.next("error")).error
            assert error.param == "session.audio.input.turn_detection.silence_duration_ms"
        effective = await session.update(turn_detection={"type": "server_vad"})
        assert effective.turn_detection.silence_duration_ms is None
    client = OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    with pytest.raises(openai.BadRequestError, match="expected 100 to 10000"):
        client.audio.transcriptions.create(
            file=("speech.wav", wav_file(silence(0.1))),
            model="onnx",
            chunking_strategy={"type": "server_vad", "silence_duration_ms": 99},
        )
