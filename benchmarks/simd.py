"""The server with our SIMD library against the same without: throughput, texts, streams.

    python benchmarks/simd.py [--rounds N] [--count N] [--audio DIR]

Everything stands all the time; the rounds alternate.
"""

import argparse
import contextlib
import http.client
import json
import sys
from pathlib import Path

import utterances
from bare import Bare
from server import WORKERS, server
from serving import load
from tables import spread, table
from waves import wav

from models.processor import processor_flags
from models.vosk.blas import CORETYPES
from models.vosk.simd import choose_variant

STREAMS = 50
WAYS = {"off": ("off", "auto"), "packed": ("auto", "auto"), "packed, AVX2": ("auto", "Haswell")}
"""Settings `simd` and `blas`."""


def texts(port: int, files: list[bytes]) -> list[str]:
    """What the server says of each."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    said = []
    for file in files:
        connection.request("POST", "/api/audio/convert", file)
        said.append(json.loads(connection.getresponse().read())["text"])
    connection.close()
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=80, help="utterances")
    parser.add_argument("--audio", default="", help="directory of 16 kHz mono WAV files")
    asked = parser.parse_args()
    pcm = utterances.utterances(Path(asked.audio) if asked.audio else None, asked.count)
    files, audio_s = [wav(one) for one in pcm], sum(map(utterances.seconds, pcm))
    ways = dict(WAYS)
    if choose_variant(processor_flags()) == choose_variant(CORETYPES["Haswell"]):
        del ways["packed, AVX2"]  # there is nothing wider here
    rates: dict[str, list[float]] = {way: [] for way in ways}
    limits: dict[str, list[float]] = {way: [] for way in ways}
    costs: dict[str, list[float]] = {way: [] for way in ways}
    with contextlib.ExitStack() as open_ones:
        running, bares, singles, said = {}, {}, {}, {}
        for way, (simd, blas) in ways.items():
            given = {"MODELSERVER_SIMD": simd, "MODELSERVER_DEBUG_BLAS": blas}
            running[way] = open_ones.enter_context(server("prepared", **given))
            options = {"simd": simd != "off", "blas": blas}
            bares[way] = Bare("prepared", WORKERS, asked.audio, asked.count, "auto", **options)
            singles[way] = Bare("prepared", 1, asked.audio, 40, "auto", **options)
            open_ones.callback(bares[way].close)
            open_ones.callback(singles[way].close)
            (loaded,) = running[way].events("model.loaded")
            print(way, loaded["simd"], loaded["blas_kernel"], file=sys.stderr)
            said[way] = texts(running[way].port, files)
            bares[way].run()
        for number in range(asked.rounds):
            for way in list(ways)[:: 1 if number % 2 else -1]:
                limit_s = bares[way].run()["wall_s"]
                wall_s = load(running[way].port, files, 4)
                rates[way].append(audio_s / wall_s)
                limits[way].append(limit_s / wall_s)
                costs[way].append(singles[way].streams(STREAMS))
            print(f"round {number}: {({w: round(r[-1], 1) for w, r in rates.items()})}",
                  file=sys.stderr, flush=True)  # fmt: skip
    rows = [
        [
            way,
            spread(rates[way], ".1f"),
            spread([ours / own for ours, own in zip(rates[way], rates["off"], strict=True)]),
            spread(limits[way], ".3f"),
            spread(costs[way], ".4f"),
            f"{sum(a == b for a, b in zip(said[way], said['off'], strict=True))} of {len(files)}",
        ]
        for way in ways
    ]
    head = ["simd", "audio s per s", "over off", "server over bare limit",
            f"{STREAMS} streams, real-time factor", "texts as off"]  # fmt: skip
    print(table(head, rows))


if __name__ == "__main__":
    main()
