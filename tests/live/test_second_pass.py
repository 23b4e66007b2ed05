"""The second pass of a live stream: each segment once more, with the profile "accurate"."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
from running import RunningServer, start_server
from test_captions import RAW, Client, connected

from modelserver.live.second_pass import SecondPass
from modelserver.serving.served import ServedModel
from modelserver.speech.messages import Caption, CaptionRequest, UtteranceAudio
from modelserver.worker.conditioning import near_silence
from supervisor import NotReady

RATE = 16_000
QUERY = f"{RAW}&words=true&second_pass=true"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, small_settings: dict[str, str]
) -> Iterator[RunningServer]:
    given = {**small_settings, "MODELSERVER_LANGUAGE": "ko", "MODELSERVER_STREAMS_SHARE": "1"}
    with start_server(tmp_path_factory.mktemp("second"), **given) as running:
        running.wait_whole()
        yield running


@pytest.fixture(scope="module")
def spoken(clips: list[bytes]) -> bytes:
    """Two utterances with pauses after them."""
    pause = near_silence(2.0, RATE)
    return clips[0][: RATE * 2 * 4] + pause + clips[2] + pause


async def paced(client: Client, pcm: bytes, times: float = 1.0) -> None:
    """Send at the pace of speech, or `times` faster."""
    piece = RATE // 10 * 2
    began = time.monotonic()
    for number, at in enumerate(range(0, len(pcm), piece)):
        await client.send(pcm[at : at + piece])
        await asyncio.sleep(max(0.0, began + number * 0.1 / times - time.monotonic()))


def revised(client: Client) -> list[dict[str, Any]]:
    return [one for one in client.said if one["type"] == "revised"]


async def test_each_segment_comes_again_in_time(
    server: RunningServer, described: dict[str, Any], spoken: bytes
) -> None:
    delays: list[float] = []
    async with connected(server, described, QUERY) as client:

        async def watch() -> None:
            at: dict[int, float] = {}
            seen = 0
            while True:
                for one in client.said[seen:]:
                    if one["type"] == "final":
                        at[one["segment"]] = time.monotonic()
                    elif one["type"] == "revised":
                        delays.append(time.monotonic() - at[one["segment"]])
                seen = len(client.said)
                await asyncio.sleep(0.005)

        watching = asyncio.create_task(watch())
        await paced(client, spoken)
        await client.tell("close")
        said = await client.end()
        watching.cancel()
    assert said[-1]["type"] == "end"  # after the last of them
    finals = [one for one in client.finals if one["text"]]
    assert len(finals) >= 2
    assert [one["segment"] for one in revised(client)] == [one["segment"] for one in client.finals]
    for final, again in zip(client.finals, revised(client), strict=True):
        assert again["start"] == pytest.approx(final["start"], abs=0.5)
        assert again["end"] == pytest.approx(final["end"], abs=0.5)
        assert all(again["start"] <= word["start"] <= again["end"] for word in again["words"])
    assert min(delays) < 0.3


async def test_it_is_what_the_accurate_profile_makes_of_it(
    server: RunningServer, described: dict[str, Any], clips: list[bytes]
) -> None:
    """Check an utterance that the client ends."""
    async with connected(server, described, QUERY) as client:
        await paced(client, clips[1][: RATE * 2 * 5], 4)
        await client.tell("finalize")
        await client.until("revised")
        await client.tell("close")
        await client.end()
    accurate = server.convert(
        clips[1][: RATE * 2 * 5], f"?{RAW}&profile=accurate", Content_Type="audio/x-raw"
    ).json
    if len(revised(client)) == 1:  # it was one utterance for the first pass
        assert revised(client)[0]["text"] == accurate["text"]
    assert revised(client)


async def test_who_does_not_ask_gets_none(
    server: RunningServer, described: dict[str, Any], clips: list[bytes]
) -> None:
    async with connected(server, described, RAW) as client:
        await client.send(clips[0])
        await client.tell("close")
        said = await client.end()
    assert {one["type"] for one in said} <= {"begin", "partial", "final", "end"}


async def test_where_no_worker_has_time_the_first_pass_does_not_wait(
    server: RunningServer, described: dict[str, Any], clips: list[bytes], wav_clips: list[bytes]
) -> None:
    """Check that files come before background streams, and so does every live stream."""
    loop = asyncio.get_running_loop()
    busy = True

    def keep_busy() -> None:
        while busy:
            server.convert(wav_clips[1])

    keeping = [loop.run_in_executor(None, keep_busy) for _ in range(4)]
    try:
        async with connected(server, described, QUERY) as client:
            await paced(client, clips[0] + bytes(RATE * 4) + clips[2], 2)
            await client.tell("close")
            said = await client.end()
    finally:
        busy = False
        await asyncio.gather(*keeping)
    assert said[-1]["type"] == "end"
    assert client.text
    assert len(revised(client)) <= len(client.finals)


async def test_a_worker_may_die_in_either_pass(
    server: RunningServer, described: dict[str, Any], spoken: bytes
) -> None:
    async with connected(server, described, QUERY) as client:
        half = len(spoken) // 4 * 2
        await paced(client, spoken[:half], 2)
        for worker in server.workers():
            os.kill(worker.pid, signal.SIGKILL)
        await paced(client, spoken[half:], 2)
        await client.tell("close")
        said = await client.end()
    assert said[-1]["type"] == "end"
    numbers = [one["segment"] for one in revised(client)]
    assert numbers == sorted(set(numbers))
    assert set(numbers) == {one["segment"] for one in client.finals}
    server.wait_whole()


@pytest.mark.parametrize("fails", [False, True])
async def test_little_audio_waits_for_a_model_that_is_being_loaded_and_none_for_one_that_failed(
    fails: bool,
) -> None:
    class Loading:
        label = "loading"
        used = contextlib.nullcontext

        async def ready(self, timeout_s: float) -> None:
            if fails:
                raise NotReady("it cannot be loaded")
            await asyncio.sleep(timeout_s)

    async def tell(caption: Caption) -> None:
        raise AssertionError(caption)

    served = cast("ServedModel", Loading())
    async with SecondPass(served, CaptionRequest(), tell, patience_s=60) as second:
        if fails:
            assert second._following is not None
            await second._following
        for _ in range(600):
            second.recognise_again(UtteranceAudio(bytes(RATE // 10 * 2), RATE))
        held_s = 0.0
        while not second._waiting.empty():
            one = second._waiting.get_nowait()
            held_s += len(one.pcm) / 2 / RATE if isinstance(one, UtteranceAudio) else 0.0
    assert held_s == pytest.approx(0.0 if fails else 15.0, abs=0.2)
