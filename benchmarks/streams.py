"""Live streams at the pace of speech: how late results are, how many are taken, what a killed
worker costs; beside the method of the Vosk project's server.

    python benchmarks/streams.py [--streams N,N] [--quiet N,N] [--seconds S] [--theirs N,N]
                                 [--audio DIR]

"theirs": a WebSocket server with a thread pool and a new recogniser for each connection, on the
plain model, re-stated from that server's source. Clients send a fifth of a second at a time and
begin at different moments; a result's lateness is the time from the sending of its piece. In a
"quiet" round two thirds of what each says are silence. Last, twenty streams beside files, the
memory that a stream takes, and a worker that is killed.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import utterances
from bare import anonymous
from contestants import threads
from parts import RunningServer
from server import WORKERS, server
from serving import load
from tables import percentile, table
from waves import wav

PIECE_S = 0.2
PIECE_BYTES = int(utterances.RATE * PIECE_S) * 2


@dataclass
class Timings:
    """Times that the clients of one round saw."""

    late_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    """Seconds from the first piece to the first partial result with a word in it."""
    last_s: list[float] = field(default_factory=list)
    """Seconds from the answer to the last piece to the final text."""
    end_s: list[float] = field(default_factory=list)
    """Seconds from the last piece to the final text."""
    refused: int = 0
    broken: int = 0

    def row(self, name: str, clients: int) -> list[str]:
        late, last = self.late_s or [0.0], self.last_s or [0.0]
        return [
            name,
            str(clients),
            str(self.refused),
            str(self.broken),
            f"{1000 * statistics.median(late):.0f}",
            f"{1000 * percentile(late, 0.95):.0f}",
            f"{1000 * max(late):.0f}",
            f"{1000 * statistics.median(last):.0f} / {1000 * percentile(last, 0.99):.0f}",
        ]


async def one(session: aiohttp.ClientSession, url: str, pcm: bytes, timings: Timings) -> None:
    """Run a client that speaks."""
    await asyncio.sleep(random.random() * 2)
    try:
        async with session.ws_connect(url) as socket:
            await socket.send_str(json.dumps({"config": {"sample_rate": utterances.RATE}}))
            sent: list[float] = []

            async def listen() -> None:
                word = False
                for number in range(-(-len(pcm) // PIECE_BYTES)):
                    message = json.loads(await socket.receive_str())
                    timings.late_s.append(time.monotonic() - sent[number])
                    if not word and (message.get("partial") or message.get("text")):
                        timings.first_s.append(time.monotonic() - sent[0])
                        word = True

            listening = asyncio.create_task(listen())
            began = time.monotonic()
            for number, at in enumerate(range(0, len(pcm), PIECE_BYTES)):
                await asyncio.sleep(max(0.0, began + number * PIECE_S - time.monotonic()))
                sent.append(time.monotonic())
                await socket.send_bytes(pcm[at : at + PIECE_BYTES])
            await listening
            ended = time.monotonic()
            await socket.send_str('{"eof" : 1}')
            await socket.receive_str()
            timings.last_s.append(time.monotonic() - ended)
            timings.end_s.append(time.monotonic() - sent[-1])
    except aiohttp.WSServerHandshakeError:
        timings.refused += 1
    except (aiohttp.ClientError, TypeError, ConnectionError):
        timings.broken += 1


async def many(
    url: str, count: int, audio: list[bytes], kill: "list[int] | None" = None
) -> Timings:
    timings = Timings()
    async with aiohttp.ClientSession() as session:
        clients = [
            asyncio.create_task(one(session, url, audio[n % len(audio)], timings))
            for n in range(count)
        ]
        if kill:
            await asyncio.sleep(8)
            os.kill(kill[0], signal.SIGKILL)
        await asyncio.gather(*clients)
    return timings


def half_silent(pcm: bytes) -> bytes:
    """Two seconds of speech, four of a little noise, and so on; as long as before."""
    noise = random.Random(1)
    hush = b"".join(
        noise.randint(-20, 20).to_bytes(2, "little", signed=True)
        for _ in range(4 * utterances.RATE)
    )
    speech = 2 * utterances.RATE * 2
    parts = [pcm[at : at + speech] + hush for at in range(0, len(pcm), speech)]
    return b"".join(parts)[: len(pcm)]


def beside_files(running: RunningServer, audio: list[bytes], spoken: list[bytes]) -> str:
    """Measure what files lose beside twenty streams, and how late the streams are."""
    files = [wav(one) for one in spoken]
    alone_s = load(running.port, files, 4)
    url = running.url.replace("http", "ws", 1) + "/"

    async def both() -> tuple[Timings, float]:
        talking = asyncio.create_task(many(url, 20, audio))
        await asyncio.sleep(3)
        took = await asyncio.to_thread(load, running.port, files, 4)
        return await talking, took

    timings, took_s = asyncio.run(both())
    return (
        f"files: {sum(map(utterances.seconds, spoken)) / alone_s:.1f} audio s per s alone, "
        f"{alone_s / took_s:.2f} of that beside {20 - timings.refused} streams, which were late by "
        f"{1000 * percentile(timings.late_s, 0.95):.0f} ms at the 95th percentile"
    )


def memory_of_a_stream(running: RunningServer, pcm: bytes) -> str:
    """Measure by the tree's anonymous memory, each page once, with four streams of ten seconds of
    audio and with twenty: the first ones also cost what a worker has once."""

    def held() -> int:
        return sum(anonymous(one.pid) for one in running.tree())

    async def hold(count: int) -> int:
        url = running.url.replace("http", "ws", 1) + "/"
        async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:
            for _ in range(count):
                socket = await stack.enter_async_context(session.ws_connect(url))
                await socket.send_str(json.dumps({"config": {"sample_rate": utterances.RATE}}))
                for at in range(0, utterances.RATE * 2 * 10, PIECE_BYTES):
                    await socket.send_bytes(pcm[at : at + PIECE_BYTES])
                    await socket.receive_str()
            return held()

    none, four, twenty = held(), asyncio.run(hold(4)), asyncio.run(hold(20))
    return (
        f"memory: {(twenty - four) / 16e6:.1f} MB a stream; {(twenty - none) / 1e6:.0f} MB for the "
        "first twenty"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", default="10,30,50")
    parser.add_argument("--theirs", default="2,4,8")
    parser.add_argument("--quiet", default="60,120")
    parser.add_argument("--share", default="0.7", help="the setting streams.share")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--audio", default="", help="directory of 16 kHz mono WAV files")
    asked = parser.parse_args()
    spoken = utterances.utterances(Path(asked.audio) if asked.audio else None, 80)
    length = int(asked.seconds * utterances.RATE) * 2
    audio = [b"".join(spoken[n:] + spoken[:n])[:length] for n in range(0, 80, 3)]
    rows = []
    with threads() as theirs:
        for count in map(int, filter(None, asked.theirs.split(","))):
            rows.append(asyncio.run(many(theirs.url, count, audio)).row("theirs", count))
            print(rows[-1], file=sys.stderr, flush=True)
    quiet = [half_silent(pcm) for pcm in audio]
    with server("prepared", MODELSERVER_STREAMS_SHARE=asked.share) as running:
        url = running.url.replace("http", "ws", 1) + "/"
        print(memory_of_a_stream(running, audio[0]))
        for name, spoken_by, counts in (
            ("this server", audio, asked.streams),
            ("two thirds silence", quiet, asked.quiet),
        ):
            for count in map(int, filter(None, counts.split(","))):
                rows.append(asyncio.run(many(url, count, spoken_by)).row(name, count))
                print(rows[-1], file=sys.stderr, flush=True)
        print(beside_files(running, audio, spoken))
        kill = [running.workers()[0].pid]
        rows.append(asyncio.run(many(url, 20, audio, kill)).row("a worker is killed", 20))
        assert len(running.workers()) == WORKERS
    head = ["", "streams", "refused", "broken", "late, median ms", "95th percentile", "most",
            "last result after the end, median / 99th"]  # fmt: skip
    print(table(head, rows))


if __name__ == "__main__":
    main()
