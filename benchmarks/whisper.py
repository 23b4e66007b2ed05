"""Whisper base behind this server and other servers that people run it with: throughput, latency,
memory, killed workers, 600 MB. A part of `bench.py`.

`whisper_contestants.py` describes the contestants. "No server": as many forked processes
as there are workers, without any server.
"""

import asyncio
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import utterances
import whisper_contestants as contestants
from bare import anonymous
from contest import LIMIT, memory, throughput_table
from contestants import Start
from deaths import deaths
from findings import Asked, Finding, Table, say
from load import CONCURRENCY, closed
from mixed import recording
from parts import MB, memory_cgroup
from server import WORKERS
from tables import spread

_SMALL = 600 * MB
_SMALL_WORKERS = 4
_SHORT_S, _LONG_S = 5.0, 60.0


def whisper(asked: Asked) -> Finding:
    """Compare servers of Whisper base."""
    starts = contestants.everyone()
    finding = _throughput(asked, starts)
    for part in (
        _alone(asked, starts),
        memory(asked, starts),
        deaths(asked, starts),
        _in_little_memory(asked, starts),
    ):
        finding.notes += part.notes
        finding.tables += part.tables
        finding.raw |= part.raw
    return finding


def _throughput(asked: Asked, starts: Sequence[Start]) -> Finding:
    files = asked.files()
    audio_s = sum(map(utterances.seconds, files))
    rates: dict[str, list[float]] = {}
    p95: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        limit = Bare(asked.audio, len(files), WORKERS)
        stack.callback(limit.close)
        servers = [stack.enter_context(start(WORKERS)) for start in starts]
        for server in servers:  # the first requests are slower
            asyncio.run(closed(server, files[-WORKERS:]))
        for number in range(asked.rounds):
            rates.setdefault(LIMIT, []).append(audio_s / limit.run()["wall_s"])
            for server in servers[:: 1 if number % 2 else -1]:
                seen = asyncio.run(closed(server, files))
                assert not seen.lost, (server.name, seen.failed)
                rates.setdefault(server.name, []).append(audio_s / seen.wall_s)
                p95.setdefault(server.name, []).append(seen.percentile(0.95))
            last = ", ".join(f"{name} {found[-1]:.1f}" for name, found in rates.items())
            say(f"round {number + 1} of {asked.rounds}: {last}")
    ratios, table = throughput_table("Throughput", rates, p95)
    finding = Finding(raw={"audio_s_per_s": rates, "p95_s": p95, "modelserver_over": ratios})
    finding.notes.append(
        f"{len(files)} files, {audio_s:.0f} s of audio, {CONCURRENCY} clients, {WORKERS} workers, "
        f"{asked.rounds} rounds; all servers run at once and receive the files in turn."
    )
    finding.tables.append(table)
    return finding


def _alone(asked: Asked, starts: Sequence[Start]) -> Finding:
    """Measure one request at a time on an idle machine."""
    files = asked.files()
    clips = [recording(files, seconds) for seconds in (_SHORT_S, _LONG_S)]
    found: dict[str, list[list[float]]] = {}
    for start in starts:
        with start(WORKERS) as server:
            asyncio.run(closed(server, [files[-1]], 1))
            for clip in clips:
                took = [asyncio.run(closed(server, [clip], 1)) for _ in range(asked.rounds)]
                found.setdefault(server.name, []).append([s for one in took for s in one.took_s])
        say(
            f"alone: {server.name} " + ", ".join(f"{min(t):.2f} s" for t in found[server.name] if t)
        )
    finding = Finding(raw={"alone_s": found})
    finding.notes.append(f"Alone: one request at a time, {asked.rounds} times each.")
    rows = [
        (name, *(spread(took) if took else "refused" for took in all_))
        for name, all_ in found.items()
    ]
    head = ("", f"a clip of {_SHORT_S:g} s, seconds", f"a file of {_LONG_S:g} s, seconds")
    finding.tables.append(Table("Alone", head, rows))
    return finding


def _in_little_memory(asked: Asked, starts: Sequence[Start]) -> Finding:
    finding, rows = Finding(raw={"in_little_memory": {}}), []
    if os.geteuid() != 0 or not Path("/sys/fs/cgroup/memory").is_dir():
        finding.notes.append(
            "600 MB: left out, it needs root and version 1 of the memory controller."
        )
        return finding
    files = asked.short(5.0)
    for start in starts:
        name, answered, failed, end = start.__name__.replace("_", " "), 0, "", "not started"
        with memory_cgroup(_SMALL) as group:
            with (
                contextlib.suppress(AssertionError, OSError, psutil.NoSuchProcess),
                start(_SMALL_WORKERS, enter=group.enter) as server,
            ):
                name, end = server.name, "gone"
                seen = asyncio.run(closed(server, files))
                answered = len(seen.took_s)
                failed = ", ".join(f"{n} x {why}" for why, n in seen.failed.items())
                end = f"{server.able()} that decode" if server.processes() else end
            kills = group.oom_kills()
        rows.append((name, str(answered), failed or "none", str(kills), end))
        say(" | ".join(rows[-1]))
        finding.raw["in_little_memory"][name] = {"answered": answered, "oom_kills": kills}
    head = ("", "answered", "without an answer", "kills by the kernel", "at the end")
    finding.tables.append(
        Table(f"{_SMALL_WORKERS} workers in {_SMALL // MB} MB, {len(files)} requests", head, rows)
    )
    return finding


class Bare:
    """A process that loads the model by itself and forks so many that decode."""

    def __init__(self, audio: Path, count: int, processes: int) -> None:
        told = [str(contestants.onnx_model()), str(processes), str(audio), str(count)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", "import whisper; whisper.bare()", *told],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        )  # fmt: skip
        self.run()

    def run(self) -> dict[str, float]:
        """Decode the whole set: wall seconds, anonymous bytes of all processes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer: dict[str, float] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def bare() -> None:
    """Run the process behind `Bare`."""
    import numpy as np
    import sherpa_onnx

    model, processes, audio, count = sys.argv[1:]
    encoder, decoder, tokens = map(str, contestants.whisper_files(Path(model)))
    files = utterances.utterances(Path(audio), int(count))
    recognizer = sherpa_onnx.OfflineRecognizer.from_whisper(
        encoder, decoder, tokens, language=contestants.LANGUAGE, num_threads=1
    )

    def child(taken: Any, begin: Any, done: Any) -> None:
        while True:
            begin.acquire()
            while True:
                with taken.get_lock():
                    number = taken.value
                    taken.value += 1
                if number >= len(files):
                    break
                stream = recognizer.create_stream()
                samples = contestants.padded(np.frombuffer(files[number], np.int16))
                stream.accept_waveform(utterances.RATE, samples)
                recognizer.decode_stream(stream)
            done.release()

    fork = multiprocessing.get_context("fork")
    taken, done = fork.Value("i", 0), fork.Semaphore(0)
    begins = [fork.Semaphore(0) for _ in range(int(processes))]
    children = [fork.Process(target=child, args=(taken, one, done), daemon=True) for one in begins]
    for one in children:
        one.start()
    for _ in sys.stdin:
        taken.value, began = 0, time.monotonic()
        for begin in begins:
            begin.release()
        for _ in children:
            done.acquire()
        pids = [os.getpid(), *(one.pid for one in children)]
        held = sum(anonymous(pid) for pid in pids if pid is not None)
        print(json.dumps({"wall_s": time.monotonic() - began, "anonymous": held}), flush=True)
