"""What OpenAI's client costs over our own path: the same file, in turns.

    python benchmarks/clients.py [--requests N] [--rounds N]

By httpx (which that client uses) as a form to both paths, and by the package itself.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import httpx
import openai
import utterances
from server import server
from tables import spread, table
from waves import wav


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    body = wav(utterances.utterances(None, 80)[0][: utterances.RATE * 2])
    with server("prepared") as running, httpx.Client(timeout=60) as plain:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)

        def ours() -> None:
            answer = plain.post(f"{running.url}/api/audio/convert", files={"file": ("a.wav", body)})
            assert answer.status_code == 200

        def theirs() -> None:
            answer = plain.post(
                f"{running.url}/v1/audio/transcriptions",
                files={"file": ("a.wav", body)},
                data={"model": "whisper-1"},
            )
            assert answer.status_code == 200

        def package() -> None:
            client.audio.transcriptions.create(file=("a.wav", body), model="whisper-1")

        ways: dict[str, Callable[[], None]] = {
            "httpx, /api/audio/convert": ours,
            "httpx, /v1/audio/transcriptions": theirs,
            "openai, /v1/audio/transcriptions": package,
        }
        medians: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way()
        for _ in range(options.rounds):
            taken: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(options.requests):
                for name, way in ways.items():
                    started = time.perf_counter()
                    way()
                    taken[name].append((time.perf_counter() - started) * 1000)
            for name, values in taken.items():
                medians[name].append(statistics.median(values))
        first = medians["httpx, /api/audio/convert"]
        rows = [
            [name, spread(values), spread([v - o for v, o in zip(values, first, strict=True)])]
            for name, values in medians.items()
        ]
    print(table(["two seconds of speech", "median ms", "more than the first, ms"], rows))


if __name__ == "__main__":
    main()
