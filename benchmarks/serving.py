"""The server against the bare limit (the same model in as many forked processes, no server), and
what it costs: latency, memory, recovery.

    python benchmarks/serving.py [--model-form prepared|plain] [--rounds N] [--count N]
"""

import argparse
import http.client
import re
import statistics
import threading
import time
from pathlib import Path

import psutil
import utterances
from bare import bare_vosk
from server import WORKERS, server
from tables import spread, table
from waves import wav

MB = 1e6


def load(port: int, files: list[bytes], concurrency: int) -> float:
    """Send every file once, `concurrency` at a time; wall seconds."""
    queue = iter(files)
    lock = threading.Lock()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while True:
            with lock:
                file = next(queue, None)
            if file is None:
                break
            connection.request("POST", "/api/audio/convert", file)
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, body
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(concurrency)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - started


def throughput(form: str, rounds: int, count: int, audio: str) -> str:
    pcm = utterances.utterances(Path(audio) if audio else None, count)
    files = [wav(one) for one in pcm]
    audio_s = sum(map(utterances.seconds, pcm))
    concurrencies = (2, 4, 8, 16)
    ratios: dict[int, list[float]] = {c: [] for c in concurrencies}
    rates: dict[int, list[float]] = {c: [] for c in concurrencies}
    bare_rates = []
    bare = bare_vosk("prepared" if form == "prepared" else "kept", WORKERS, audio, count, "auto")
    with server(form) as running:
        supervisor = psutil.Process(running.process.pid)
        bare.run()
        load(running.port, files, WORKERS)
        loaded_rss = 0
        for _ in range(rounds):
            for concurrency in concurrencies:
                # The limit beside each: what the machine could do a moment ago.
                limit_s = bare.run()["wall_s"]
                wall_s = load(running.port, files, concurrency)
                ratios[concurrency].append(limit_s / wall_s)
                rates[concurrency].append(audio_s / wall_s)
                bare_rates.append(audio_s / limit_s)
                loaded_rss = max(loaded_rss, supervisor.memory_info().rss)
    bare.close()
    rows = [["bare limit", spread(bare_rates, ".1f"), ""]]
    rows += [
        [f"server, concurrency {c}", spread(rates[c], ".1f"), spread(ratios[c], ".3f")]
        for c in concurrencies
    ]
    return (
        f"{form}: {count} utterances, {audio_s:.0f} s of audio, {rounds} rounds; supervisor "
        f"RSS while loaded at most {loaded_rss / MB:.0f} MB\n\n"
        + table(["", "audio s per s", "over the bare limit"], rows)
    )


def latency(form: str) -> str:
    """Measure one request at a time, against the same decoding inside the worker."""
    pcm = bytearray(utterances.utterances(None, 40)[0])
    while utterances.seconds(pcm) < 5:
        pcm = pcm + pcm
    file = wav(bytes(pcm[: 5 * 2 * utterances.RATE]))
    added, health = [], []
    with server(form, MODELSERVER_LOG_LEVEL="debug") as running:
        for _ in range(40):
            connection = http.client.HTTPConnection("127.0.0.1", running.port)
            started = time.monotonic()
            connection.request("POST", "/api/audio/convert", file)
            connection.getresponse().read()
            wall_s = time.monotonic() - started
            connection.close()
            run_s = running.events("job.done")[-1]["run_s"]
            added.append((wall_s - run_s) * 1000)
        over = threading.Event()

        def press() -> None:
            while not over.is_set():
                load(running.port, [file] * 4, 4)

        presser = threading.Thread(target=press)
        presser.start()
        time.sleep(0.5)
        connection = http.client.HTTPConnection("127.0.0.1", running.port)
        for _ in range(1000):
            started = time.monotonic()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            health.append((time.monotonic() - started) * 1000)
            time.sleep(0.002)
        over.set()
        presser.join()
    health.sort()
    return (
        f"{form}: added by HTTP, spool and channel to a 5 s clip: {spread(added[5:])} ms\n"
        f"{form}: /healthz while all workers decode: median {statistics.median(health):.1f}, "
        f"99th percentile {health[int(len(health) * 0.99)]:.1f} ms of {len(health)}"
    )


def recovery(form: str) -> str:
    """Kill workers; first requests after start."""
    pcm = utterances.utterances(None, 40)
    files = [wav(one) for one in pcm]
    replaced: list[float] = []
    first, later = [], []
    with server(form) as running:
        for one, file in zip(pcm[:5], files[:5], strict=True):
            started = time.monotonic()
            load(running.port, [file], 1)
            first.append((time.monotonic() - started) / utterances.seconds(one))
        load(running.port, files[5:] * 3, WORKERS)
        for one, file in zip(pcm[:5], files[:5], strict=True):
            started = time.monotonic()
            load(running.port, [file], 1)
            later.append((time.monotonic() - started) / utterances.seconds(one))
        for _ in range(20):
            seen = len(running.events("worker.started"))
            victim = running.workers()[0]
            killed = time.time()
            victim.kill()
            while len(running.events("worker.started")) == seen:
                time.sleep(0.002)
            ready = running.events("worker.started")[-1]["timestamp"]
            replaced.append((_epoch(ready) - killed) * 1000)
            time.sleep(1.2)  # one that dies at once, again and again, is made to wait
    return (
        f"{form}: a killed worker is replaced and ready after {spread(replaced, '.1f')} ms\n"
        f"{form}: real-time factor of the first five requests {spread(first, '.3f')}, of the "
        f"same five after a hundred others {spread(later, '.3f')}"
    )


def memory(form: str) -> str:
    """Eight idle workers, and the supervisor."""
    with server(form, workers=8) as running:
        fork_server = running.fork_server()
        workers = running.workers()
        each = [_pss(worker.pid) for worker in workers]
        private = [_private(worker.pid) for worker in workers]
        total = sum(each) + _pss(fork_server.pid)
        alone = psutil.Process(running.process.pid).memory_info().rss
    with server(form, workers=1) as running:
        fork_server = running.fork_server()
        single = _pss(fork_server.pid) + sum(_pss(w.pid) for w in running.workers())
    return (
        f"{form}: 7 more idle workers cost {(total - single) / 7 / MB:.1f} MB of PSS each "
        f"(private pages {spread([p / MB for p in private], '.1f')} MB); the supervisor idle "
        f"{alone / MB:.0f} MB of RSS"
    )


def _pss(pid: int) -> int:
    return _rollup(pid, "Pss")


def _private(pid: int) -> int:
    return _rollup(pid, "Private_Dirty") + _rollup(pid, "Private_Clean")


def _rollup(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    match = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
    assert match is not None
    return int(match.group(1)) * 1024


def _epoch(timestamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(timestamp).timestamp()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-form", choices=["prepared", "plain"], default="prepared")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=80, help="utterances")
    parser.add_argument("--audio", default="", help="directory of 16 kHz mono WAV files")
    parser.add_argument("--skip-throughput", action="store_true")
    arguments = parser.parse_args()
    form = arguments.model_form
    if not arguments.skip_throughput:
        print(throughput(form, arguments.rounds, arguments.count, arguments.audio), flush=True)
    for measure in (latency, recovery, memory):
        print(measure(form), flush=True)


if __name__ == "__main__":
    main()
