"""The search of our SIMD library beside the engine's own, without a server.

    python benchmarks/search.py [--rounds N] [--count N] [--audio DIR]

Both stand all the time; the rounds alternate.
"""

import argparse

from bare import Bare
from tables import spread, table

PROCESSES = 2
TIMES = 3
WAYS = {"the engine's": False, "ours": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--count", type=int, default=40, help="utterances")
    parser.add_argument("--audio", default="", help="directory of 16 kHz mono WAV files")
    asked = parser.parse_args()
    ways = {
        way: Bare("prepared", PROCESSES, asked.audio, asked.count, "auto", search=search)
        for way, search in WAYS.items()
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    costs: dict[str, list[float]] = {way: [] for way in ways}
    for bare in ways.values():
        assert bare.loaded["simd"].startswith("packed"), bare.loaded
        bare.run()
    for number in range(asked.rounds):
        for way in list(ways)[:: 1 if number % 2 else -1]:
            before = ways[way].processor_s()
            done = ways[way].run(TIMES)
            audio_s = done["audio_s"]
            rates[way].append(audio_s / done["wall_s"])
            costs[way].append(1000 * (ways[way].processor_s() - before) / audio_s)
    for bare in ways.values():
        bare.close()

    def over(found: dict[str, list[float]], way: str) -> str:
        pairs = zip(found[way], found["the engine's"], strict=True)
        return spread([own / engines for own, engines in pairs])

    rows = [
        [way, spread(rates[way], ".1f"), over(rates, way), spread(costs[way]), over(costs, way)]
        for way in ways
    ]
    head = ["search", "audio s per s", "over the engine's", "processor ms for a second", "over it"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
