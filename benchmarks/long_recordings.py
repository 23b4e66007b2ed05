"""A long recording: on one worker and on two, cut and uncut; and short files beside long ones.

    python benchmarks/long_recordings.py [--minutes M] [--rounds N] [--audio DIR]

The texts of a cut and an uncut decode are compared, and beside that the uncut decode's with its own
after a tenth of a second of silence: what any shift changes.
"""

import argparse
import random
import threading
import time
from pathlib import Path
from typing import Any

import utterances
from parts import RunningServer
from server import server
from tables import spread, table
from waves import wav

NEVER = {"MODELSERVER_DEBUG_LONG_FROM_S": "100000"}
PATIENT = {"MODELSERVER_LIMITS_REQUEST_S": "1000"}


def hush(chance: random.Random, seconds: float) -> bytes:
    """Next to nothing."""
    samples = int(seconds * utterances.RATE)
    return b"".join(
        chance.randint(-30, 30).to_bytes(2, "little", signed=True) for _ in range(samples)
    )


def recording(spoken: list[bytes], seconds: float, seed: int = 1) -> bytes:
    """Utterances with pauses of up to a second."""
    chance = random.Random(seed)
    pcm = bytearray()
    while len(pcm) / 2 / utterances.RATE < seconds:
        pcm += chance.choice(spoken) + hush(chance, chance.random())
    return bytes(pcm[: int(seconds * utterances.RATE) * 2])


def transcribe(running: RunningServer, pcm: bytes) -> tuple[dict[str, Any], float]:
    started = time.monotonic()
    answer = running.ask("/api/audio/convert?words=true", wav(pcm), timeout_s=1000)
    assert answer.status == 200, answer.body
    return answer.json, time.monotonic() - started


def distance(one: str, other: str) -> float:
    """Characters that differ, in percent of the first's."""
    before = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        now = [row]
        for column, theirs in enumerate(other, 1):
            now.append(
                min(before[column] + 1, now[-1] + 1, before[column - 1] + (letter != theirs))
            )
        before = now
    return 100 * before[-1] / max(1, len(one))


def speed(pcm: bytes, rounds: int) -> str:
    ratios, rates, said = [], [], {}
    with (
        server("prepared", 1, **PATIENT) as one,
        server("prepared", 2, **PATIENT) as two,
        server("prepared", 1, **PATIENT, **NEVER) as uncut,
    ):
        for _ in range(rounds):
            _, alone_s = transcribe(one, pcm)
            said["cut"], both_s = transcribe(two, pcm)
            ratios.append(alone_s / both_s)
            rates.append(len(pcm) / 2 / utterances.RATE / both_s)
        said["uncut"], _ = transcribe(uncut, pcm)
        said["shifted"], _ = transcribe(uncut, hush(random.Random(2), 0.1) + pcm)
    text = {name: answer["text"].replace(" ", "") for name, answer in said.items()}
    return (
        f"two workers over one: {spread(ratios, '.2f')}; {spread(rates, '.1f')} audio s per s\n"
        "characters that differ from the uncut decode's: "
        f"cut {distance(text['uncut'], text['cut']):.1f} %, "
        f"uncut after 0.1 s of silence {distance(text['uncut'], text['shifted']):.1f} %"
    )


def beside(spoken: list[bytes], rounds: int) -> str:
    """Latency of a three-second file with four of five minutes inside, cut and not."""
    short = wav((spoken[0] + spoken[1])[: 3 * utterances.RATE * 2])
    longs = [wav(recording(spoken, 300, seed)) for seed in range(4)]
    rows = []
    with server("prepared", **PATIENT) as cut, server("prepared", **PATIENT, **NEVER) as uncut:
        for name, running in (("uncut", uncut), ("in pieces", cut)) * rounds:
            done: list[float] = []
            began = time.monotonic()

            def long(file: bytes, running: RunningServer = running, done: Any = done) -> None:
                assert running.ask("/api/audio/convert", file, timeout_s=1000).status == 200
                done.append(time.monotonic())

            threads = [threading.Thread(target=long, args=(file,)) for file in longs]
            for thread in threads:
                thread.start()
            waits = []
            while len(done) < len(longs):
                started = time.monotonic()
                assert running.ask("/api/audio/convert", short, timeout_s=1000).status == 200
                waits.append(time.monotonic() - started)
                time.sleep(0.2)
            for thread in threads:
                thread.join()
            waits.sort()
            rows.append(
                [
                    name,
                    str(len(waits)),
                    f"{waits[len(waits) // 2]:.2f}",
                    f"{waits[int(len(waits) * 0.95)]:.2f}",
                    f"{waits[-1]:.2f}",
                    f"{max(done) - began:.1f}",
                ]
            )
    return table(
        ["four long ones", "short files", "median s", "95th", "most", "all long done, s"], rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--audio", default="", help="directory of 16 kHz mono WAV files")
    asked = parser.parse_args()
    spoken = utterances.utterances(Path(asked.audio) if asked.audio else None, 80)
    print(beside(spoken, asked.rounds), flush=True)
    print(speed(recording(spoken, asked.minutes * 60), asked.rounds))


if __name__ == "__main__":
    main()
