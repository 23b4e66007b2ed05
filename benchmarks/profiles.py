"""Profiles: what each costs, in time and memory; and how soon a live stream's second pass answers.

    python benchmarks/profiles.py [--count N] [--rounds N] [--streams N,N] [--audio DIR]

Each profile decodes the same files in a process of its own, one after the other and round by round,
on one processor. Streams come at the pace of speech, with two seconds of near-silence between
utterances; a delay is from a final result to the same segment revised.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import utterances
from bare import anonymous
from server import server
from tables import spread, table

import models
from models.vosk.prepared import find_prepared
from modelserver.settings import Settings
from modelserver.worker.conditioning import near_silence
from modelserver.worker.profiles import ProfiledModel

PIECE = utterances.RATE // 10 * 2


class Decoder:
    """A process that decodes all files with one profile when it is told to."""

    def __init__(self, form: str, profile: str, audio: str, count: int) -> None:
        command = [sys.executable, __file__, "--inside", form, profile]
        self._process = subprocess.Popen(
            [*command, "--audio", audio, "--count", str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            text=True,
        )
        self._read()

    def run(self) -> tuple[float, float]:
        """Processor seconds for a second of audio, and MB of its own memory since it was loaded."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        factor, grown = json.loads(self._read())
        return factor, grown

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def inside(form: str, profile: str, audio: str, count: int) -> None:
    """What such a process does."""
    place = models.find_model("auto", Path("/nonexistent"))
    prepared = find_prepared(place, Settings().prepared_dir).prepared
    made = prepared.made if prepared is not None and form == "prepared" else {}
    model = models.load_model(place.directory, made)
    model.warm(models.warm_up_clips("ko", utterances.RATE))
    profiled = ProfiledModel(model, profile)
    files = utterances.utterances(Path(audio) if audio else None, count)
    audio_s = sum(map(utterances.seconds, files))
    loaded = anonymous(os.getpid())
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        for file in files:
            recognizer = profiled.recognizer(models.RecognitionOptions(words=True))
            for at in range(0, len(file), model.chunk_bytes):
                recognizer.accept(file[at : at + model.chunk_bytes])
            recognizer.finish()
            recognizer.close()
        factor = (time.process_time() - began) / audio_s
        grown = anonymous(os.getpid()) - loaded
        print(json.dumps([factor, grown / 1e6]), flush=True)


def costs(rounds: int, audio: str, count: int) -> str:
    """All profiles, both forms of the model."""
    rows = []
    for form in ("prepared", "plain"):
        decoders = {p: Decoder(form, p, audio, count) for p in models.PROFILES}
        seen: dict[str, list[tuple[float, float]]] = {p: [] for p in models.PROFILES}
        for _ in range(rounds):
            for profile, decoder in decoders.items():
                seen[profile].append(decoder.run())
        for decoder in decoders.values():
            decoder.close()
        balanced = [factor for factor, _ in seen["balanced"]]
        rows += [
            [
                f"{form}, {profile}",
                spread([factor for factor, _ in found], ".3f"),
                spread([f / b for (f, _), b in zip(found, balanced, strict=True)], ".2f"),
                f"{found[-1][1]:.0f}",
            ]
            for profile, found in seen.items()
        ]
    head = ["", "processor s per s of audio", "over balanced", "grown by, MB"]
    return table(head, rows)


async def _stream(url: str, pcm: bytes) -> tuple[int, list[float]]:
    """How many final results came, and the delays of those that were revised."""
    at: dict[int, float] = {}
    delays: list[float] = []
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:

        async def read() -> None:
            async for message in socket:
                said = json.loads(message.data)
                if said["type"] == "final":
                    at[said["segment"]] = time.monotonic()
                elif said["type"] == "revised":
                    delays.append(time.monotonic() - at[said["segment"]])

        reading = asyncio.create_task(read())
        began = time.monotonic()
        for number, start in enumerate(range(0, len(pcm), PIECE)):
            await socket.send_bytes(pcm[start : start + PIECE])
            await asyncio.sleep(max(0.0, began + number * 0.1 - time.monotonic()))
        await socket.send_str('{"type": "close"}')
        await reading
    return len(at), delays


async def _streams(url: str, count: int, files: list[bytes]) -> tuple[int, list[float]]:
    pause = near_silence(2.0, utterances.RATE)
    mine = [b"".join(file + pause for file in files[number::count]) for number in range(count)]
    told = await asyncio.gather(*(_stream(url, pcm) for pcm in mine))
    return sum(finals for finals, _ in told), sorted(d for _, delays in told for d in delays)


def second_pass(counts: list[int], audio: str) -> str:
    """So many streams at once."""
    rows = []
    with server("prepared", MODELSERVER_STREAMS_SHARE="1") as running:
        url = f"ws://127.0.0.1:{running.port}/api/audio/stream"
        url += f"?encoding=s16le&rate={utterances.RATE}&second_pass=true"
        for count in counts:
            files = utterances.utterances(Path(audio) if audio else None, 4 * count)
            finals, delays = asyncio.run(_streams(url, count, files))
            late = [1000 * d for d in delays] or [0.0]
            rows.append(
                [
                    str(count),
                    str(finals),
                    str(len(delays)),
                    f"{late[len(late) // 2]:.0f}",
                    f"{late[int(len(late) * 0.95)]:.0f}",
                    f"{late[-1]:.0f}",
                ]
            )
    head = ["streams", "final", "revised", "delay, median ms", "95th percentile", "most"]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=24, help="utterances")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", default="1,2,4,8", help="how many at once")
    parser.add_argument("--audio", default="", help="directory of 16 kHz mono WAV files")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        inside(*arguments.inside, arguments.audio, arguments.count)
        return
    print(costs(arguments.rounds, arguments.audio, arguments.count), end="\n\n", flush=True)
    print(second_pass([int(n) for n in arguments.streams.split(",")], arguments.audio))


if __name__ == "__main__":
    main()
