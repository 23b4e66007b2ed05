"""Measures the cost of text steps: a server with them and one without are asked in turn.

    python benchmarks/text_steps.py [--punctuation DIR] [--language TAG] [--keywords N] [--rounds N]

`--punctuation`: a punctuation model, whose step is on then, too. Prints how much later an answer
comes, and the throughput with the steps over the one without.
"""

import argparse
import http.client
import statistics
import tempfile
import time
from pathlib import Path

import utterances
from server import server
from serving import load
from tables import spread, table
from waves import wav


def main() -> None:
    """Ask both servers in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--punctuation", type=Path)
    parser.add_argument("--language", default="zh", help="that the steps are made for")
    parser.add_argument("--keywords", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=24)
    arguments = parser.parse_args()
    files = [wav(one) for one in utterances.utterances(None, arguments.count)]
    steps = ["vocabulary", *(["punctuation"] if arguments.punctuation else []), "numbers"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as keywords:
        keywords.write("".join(f"Name{n}\n名字{n}号\n" for n in range(arguments.keywords // 2)))
        keywords.flush()
        given = {
            "MODELSERVER_TEXT_STEPS": ",".join(steps),
            "MODELSERVER_KEYWORDS_FILE": keywords.name,
            "MODELSERVER_LANGUAGE": arguments.language,
        }
        if arguments.punctuation:
            given["MODELSERVER_TEXT_PUNCTUATION_MODEL"] = str(arguments.punctuation)
        plain = {"MODELSERVER_LANGUAGE": arguments.language}
        with server("prepared", **plain) as without, server("prepared", **given) as with_steps:
            ports = without.port, with_steps.port
            for port in ports:
                load(port, files, 4)
            later = [
                1000 * (_answer_s(ports[1], file) - _answer_s(ports[0], file))
                for _ in range(arguments.rounds)
                for file in files
            ]
            ratios = []
            for _ in range(arguments.rounds):
                walls = [load(port, files * 2, 8) for port in ports]
                ratios.append(walls[0] / walls[1])
    later.sort()
    print(
        table(
            ["with " + ", ".join(steps), ""],
            [
                ["answers come later by, ms, median", f"{statistics.median(later):.1f}"],
                ["95 of 100 by at most, ms", f"{later[int(0.95 * len(later))]:.1f}"],
                ["throughput over that without", spread(ratios, ".3f")],
            ],
        )
    )


def _answer_s(port: int, file: bytes) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    started = time.monotonic()
    connection.request("POST", "/api/audio/convert", file)
    response = connection.getresponse()
    response.read()
    connection.close()
    assert response.status == 200
    return time.monotonic() - started


if __name__ == "__main__":
    main()
