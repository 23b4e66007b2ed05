"""Another commit's server against this one, in one run: throughput of files, latency of one.

    python benchmarks/before_after.py --before COMMIT [--rounds 5] [--count 80]

The other commit is checked out beside, and runs with this environment's packages. Both servers
stand all the time; the rounds alternate.
"""

import argparse
import contextlib
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from contestants import RUN_TREE
from server import server
from serving import load
from utterances import RATE, seconds, utterances
from waves import wav

ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A directory with that commit in it."""
    with tempfile.TemporaryDirectory() as directory:
        tree = str(Path(directory) / "tree")
        subprocess.run(["git", "worktree", "add", "--detach", tree, commit], cwd=ROOT, check=True)
        try:
            yield Path(tree)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def one(port: int, file: bytes, times: int) -> float:
    """Median seconds of one request after the other, on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    took = []
    for _ in range(times):
        started = time.perf_counter()
        connection.request("POST", "/api/audio/convert", file, {"Content-Type": "audio/wav"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        took.append(time.perf_counter() - started)
    connection.close()
    return statistics.median(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", required=True, metavar="COMMIT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=80, help="utterances")
    parser.add_argument("--audio", default="", help="directory of 16 kHz mono WAV files")
    asked = parser.parse_args()
    pcm = utterances(Path(asked.audio) if asked.audio else None, asked.count)
    files, total_s = [wav(samples) for samples in pcm], sum(map(seconds, pcm))
    five_seconds = wav(b"".join(pcm)[: 5 * 2 * RATE])
    ratios, added = [], []
    with checked_out(asked.before) as tree, contextlib.ExitStack() as running:
        ports = {}
        for name, place in (("before", tree), ("after", ROOT)):
            os.environ["PYTHONPATH"] = os.environ["TREE"] = str(place)
            ports[name] = running.enter_context(server("prepared", program=RUN_TREE)).port
        for port in ports.values():
            load(port, files, 4)  # as they are after a while
        for number in range(asked.rounds):
            order = list(ports)[:: 1 if number % 2 else -1]
            rate = {name: total_s / load(ports[name], files, 4) for name in order}
            wait = {name: one(ports[name], five_seconds, 15) for name in order}
            ratios.append(rate["after"] / rate["before"])
            added.append(1000 * (wait["after"] - wait["before"]))
            print(f"round {number}: {rate} audio s per s, {wait}", file=sys.stderr, flush=True)
    print(f"throughput, after over before: {statistics.median(ratios):.3f} "
          f"({min(ratios):.3f} - {max(ratios):.3f})")  # fmt: skip
    print(f"a 5 s clip, after less before: {statistics.median(added):.2f} ms "
          f"({min(added):.2f} - {max(added):.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
