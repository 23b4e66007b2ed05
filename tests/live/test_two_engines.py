"""Models of two engines in one server, and a second pass of one model over the streams of
another."""

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from onnx_models import make_model, silence, tones, write_network
from running import RunningServer, start_server, until
from test_captions import RAW, Client, connected
from wavs import wav_file

import models

SECOND_PASS = f"{RAW}&model=live&words=true&second_pass=true"
SETTINGS = """
workers.count = 1
streams.share = 1
debug.warmup = "none"
engines.onnx.voice_activity = "loudness"
[models.live]
model = "{home}/online"
second_pass = "finals"
[models.finals]
model = "{home}/offline"
load = "first_use"
[models.alone]
model = "{home}/online"
load = "first_use"
second_pass = "wrong"
[models.wrong]
model = "{home}/wrong"
load = "first_use"
[models.ko]
model = "{vosk}"
second_pass = "finals"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A streaming model, and an offline one that writes capitals."""
    home = tmp_path_factory.mktemp("home")
    make_model("online_transducer", home / "online")
    make_model("sense_voice", home / "offline")
    make_model("sense_voice", home / "wrong")
    write_network(home / "wrong" / "model.onnx", {"model_type": "sense_voice_ctc"})
    return home


@pytest.fixture(scope="module")
def settings(
    tmp_path_factory: pytest.TempPathFactory, home: Path, small: models.ModelLocation
) -> Path:
    file = tmp_path_factory.mktemp("two-engines") / "settings.toml"
    file.write_text(SETTINGS.format(home=home, vosk=small.directory))
    return file


@pytest.fixture(scope="module")
def server(settings: Path) -> Iterator[RunningServer]:
    with start_server(settings.parent, "--config", str(settings)) as server:
        until(lambda: [*states(server).values()].count("ready") == 2, 60)
        assert states(server)["finals"] == "unloaded"
        yield server


def states(server: RunningServer) -> dict[str, str]:
    return {model["label"]: model["state"] for model in server.health()["models"]}


def worker_of(server: RunningServer, label: str) -> psutil.Process:
    (worker,) = (w for w in server.health()["workers"] if w["model"] == label)
    return psutil.Process(worker["pid"])


def refusals(server: RunningServer) -> list[str]:
    return [said for said in server.health()["reasons"] if "not taken over" in said]


def revised(client: Client) -> list[dict[str, Any]]:
    return [one for one in client.said if one["type"] == "revised"]


async def until_revised(client: Client, number: int) -> None:
    async with asyncio.timeout(60):
        while not any(one["segment"] == number for one in revised(client)):
            await asyncio.sleep(0.01)


async def speak(client: Client, *texts: str) -> None:
    """Send texts; the client ends each one, and waits for its second pass."""
    for number, text in enumerate(texts):
        await client.send(tones(text) + silence(0.4))
        await client.tell("finalize")
        await until_revised(client, number)


async def test_finals_of_one_model_are_revised_by_another(
    server: RunningServer, described: dict[str, Any]
) -> None:
    """The second one is loaded by the first stream that needs it."""
    async with connected(server, described, SECOND_PASS) as client:
        await speak(client, "abc", "feed")
        await client.tell("close")
        said = await client.end()
    assert said[-1]["type"] == "end"
    assert client.text == "abc feed"
    assert any(one["type"] == "partial" for one in said)
    assert [one["text"] for one in revised(client)] == ["ABC", "FEED"]
    for final, again in zip(client.finals, revised(client), strict=True):
        assert again["segment"] == final["segment"]
        assert again["start"] == pytest.approx(final["start"], abs=0.5)
        assert again["words"][0]["word"] == again["text"]
    assert states(server)["finals"] == "ready"


async def test_the_second_pass_of_a_vosk_model_may_be_an_onnx_model(
    server: RunningServer, described: dict[str, Any], clips: list[bytes]
) -> None:
    query = SECOND_PASS.replace("model=live", "model=ko")
    async with connected(server, described, query) as client:
        await client.send(clips[0][: 32_000 * 3])
        await client.tell("finalize")
        await client.until("final")
        await client.tell("close")
        said = await client.end()
    assert said[-1]["type"] == "end"
    assert client.text
    assert len(revised(client)) == len(client.finals)
    assert all(one["text"] == one["text"].upper() for one in revised(client))


async def test_a_stream_goes_on_when_the_worker_of_either_pass_is_killed(
    server: RunningServer, described: dict[str, Any]
) -> None:
    async with connected(server, described, SECOND_PASS) as client:
        await speak(client, "abc")
        other, seen = worker_of(server, "ko").pid, len(server.events())
        for number, label in enumerate(("finals", "live"), 1):
            await client.send(tones("fe"))
            os.kill(worker_of(server, label).pid, signal.SIGKILL)
            await client.send(tones("ed") + silence(0.4))
            await client.tell("finalize")
            await until_revised(client, number)
        await client.tell("close")
        said = await client.end()
    assert said[-1]["type"] == "end"
    assert client.text == "abc feed feed"
    assert [one["text"] for one in revised(client)] == ["ABC", "FEED", "FEED"]
    assert worker_of(server, "ko").pid == other
    exited = [e["label"] for e in server.events()[seen:] if e["event"] == "worker.exited"]
    assert exited == ["finals", "live"]


async def test_a_stream_goes_on_without_a_second_pass_that_cannot_be_had(
    server: RunningServer, described: dict[str, Any], clips: list[bytes]
) -> None:
    async with connected(server, described, SECOND_PASS.replace("live", "alone")) as client:
        await client.send(tones("abc") + silence(0.4))
        await client.tell("finalize")
        ended = await asyncio.to_thread(
            server.wait_event, "second_pass.ended", timeout_s=60, model="wrong"
        )
        await client.send(tones("feed") + silence(0.4))
        await client.tell("close")
        said = await client.end()
    assert "'vocab_size' does not exist in the metadata" in ended["reason"]
    assert said[-1]["type"] == "end"
    assert client.text == "abc feed"
    assert not revised(client)
    phrases = SECOND_PASS.replace("live", "ko") + "&phrases=어제"
    async with connected(server, described, phrases) as client:
        await client.send(clips[0][: 32_000 * 2])
        await client.tell("close")
        said = await client.end()
    (warning,) = (one["message"] for one in said if one["type"] == "warning")
    assert re.fullmatch(r"phrases: finals \(.*\) cannot be limited to phrases", warning)
    assert not revised(client)


async def test_both_engines_serve_at_once_under_one_guard(
    server: RunningServer, clips: list[bytes]
) -> None:
    requests = {"live": tones("ab ba"), "ko": clips[0], "finals": tones("feed")}
    asked = [
        asyncio.to_thread(server.convert, wav_file(pcm + silence(1)), f"?model={label}")
        for label, pcm in requests.items()
        for _ in range(3)
    ]
    answers = [answer.json for answer in await asyncio.gather(*asked)]
    assert [one["text"] for one in answers[:3]] == ["ab ba"] * 3
    assert len({one["text"] for one in answers[3:6]} - {""}) == 1
    assert [one["text"] for one in answers[6:]] == ["FEED"] * 3
    health = server.health()
    engines = {one["label"]: one["engine"] for one in health["models"]}
    assert [engines[label] for label in requests] == ["onnx", "vosk", "onnx"]
    assert {one["model"] for one in health["workers"]} >= set(requests)
    servers = {one["label"]: one["fork_server_pid"] for one in health["models"]}
    assert len({servers[label] for label in requests}) == 3


def test_settings_with_a_second_pass_that_is_not_there_are_not_taken_over(
    server: RunningServer, settings: Path
) -> None:
    before = settings.read_text()
    settings.write_text(before.replace('second_pass = "finals"', 'second_pass = "none"', 1))
    try:
        server.process.send_signal(signal.SIGHUP)
        said = until(lambda: refusals(server), what="a refusal")[0]
    finally:
        settings.write_text(before)
    assert "models.live.second_pass = 'none'" in said
    assert "allowed: finals or alone or wrong or ko" in said
    assert server.convert(wav_file(tones("abc")), "?model=live").json["text"] == "abc"
