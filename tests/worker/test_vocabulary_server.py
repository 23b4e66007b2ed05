"""Keywords of requests, in the texts of a server with the step "vocabulary"."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import websockets
from running import RunningServer, start_server
from wavs import wav_file


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    given = {
        "MODELSERVER_TEXT_STEPS": "vocabulary",
        "MODELSERVER_PREPARE": "never",
        "MODELSERVER_DEBUG_LONG_FROM_S": "20",
        "MODELSERVER_DEBUG_LONG_PIECE_S": "6",
    }
    with start_server(tmp_path_factory.mktemp("vocabulary"), **given) as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def recognised(server: RunningServer, clips: list[bytes]) -> str:
    return str(server.convert(wav_file(clips[0])).json["text"])


def parts(text: str) -> str:
    """Return two words of a text, which a request will ask for as one."""
    pairs = itertools.pairwise(text.split())
    return max((" ".join(pair) for pair in pairs if "".join(pair).isalpha()), key=len)


def test_files(server: RunningServer, clips: list[bytes], recognised: str) -> None:
    split = parts(recognised)
    keyword = split.replace(" ", "")
    asked = f"?segments=true&words=true&keywords={quote(keyword)}"
    answer = server.convert(wav_file(clips[0]), asked).json
    written = recognised.replace(split, keyword)
    assert answer["text"] == written != recognised
    assert " ".join(segment["text"] for segment in answer["segments"]) == written
    assert [word["word"] for word in answer["words"]] == recognised.split()
    assert "warnings" not in answer or not any("keywords" in one for one in answer["warnings"])
    assert server.convert(wav_file(clips[0])).json["text"] == recognised


def test_long_recordings(server: RunningServer, clips: list[bytes]) -> None:
    audio = wav_file(clips[1] + clips[0] + clips[2])
    text = server.convert(audio).json["text"]
    split = parts(text)
    keyword = split.replace(" ", "")
    answer = server.convert(audio, f"?segments=true&keywords={quote(keyword)}").json
    assert len(answer["segments"]) > 1
    assert answer["text"] == text.replace(split, keyword) != text


def test_live_streams(server: RunningServer, clips: list[bytes], recognised: str) -> None:
    split = parts(recognised)
    keyword = split.replace(" ", "")

    async def told() -> list[dict[str, str]]:
        address = server.url.replace("http", "ws") + "/api/audio/stream?encoding=s16le&rate=16000"
        async with websockets.connect(f"{address}&keywords={quote(keyword)}") as socket:
            await socket.send(clips[0])
            await socket.send('{"type": "close"}')
            return [json.loads(message) async for message in socket]

    messages = asyncio.run(told())
    finals = [message["text"] for message in messages if message["type"] == "final"]
    partials = [message["text"] for message in messages if message["type"] == "partial"]
    assert " ".join(text for text in finals if text) == recognised.replace(split, keyword)
    assert not any(keyword in text for text in partials)
