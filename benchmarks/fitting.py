"""Predicted memory against measured, for the embedded model and variants of it; and changing models
under load: requests lost, and the time from SIGHUP to the first answer of the new model.

    python benchmarks/fitting.py [--rounds N] [--changes N]
"""

import argparse
import concurrent.futures
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import utterances
from parts import (
    SMALL_WORDS,
    TESTS,
    RunningServer,
    add_rescoring,
    make_small_model,
    make_static_model,
    read_symbols,
)
from server import server
from tables import spread, table
from waves import wav

import models
from models.vosk.prepared import find_prepared, prepare
from modelserver.settings import Settings
from supervisor import available_memory

MB = 1e6
HEAD = ["variant", "predicted", "measured", "predicted over measured"]
CLIENTS = 4
Variant = tuple[Path, dict[str, str], list[str]]


def variants(home: Path) -> dict[str, Variant]:
    embedded = models.find_model("vosk-model-small-ko-0.22", Path("/nonexistent"))
    prepared = find_prepared(embedded, Settings().prepared_dir).prepared
    assert prepared is not None, "first: modelserver models prepare"
    words = SMALL_WORDS.split()
    small = make_small_model(embedded.directory, home / "small", words)
    known = [w for w in read_symbols(embedded.directory / "graph/Gr.fst") if w[0] not in "<[#"]
    middle = make_small_model(embedded.directory, home / "middle", known[:100_000])
    location = models.ModelLocation("middle", middle, "ko")
    composed = prepare(location, home / "store", available_memory=available_memory())
    static = make_static_model(location, composed, home / "static", aligned=False)
    big = make_small_model(embedded.directory, home / "big", words)
    add_rescoring(big, states=1_000_000, arcs_each=4, lm_ints=25_000_000)
    made = {name: str(file) for name, file in prepared.made.items()}
    middle_made = {name: str(file) for name, file in composed.made.items()}
    return {
        "as published (264 MB)": (embedded.directory, {}, []),
        "prepared (graph of 998 MB)": (embedded.directory, made, []),
        "a language model of 200 words": (small, {}, []),
        "of 100,000 words": (middle, {}, []),
        "of 100,000 words, prepared": (middle, middle_made, []),
        "of 100,000 words, static and not mapped": (static.directory, {}, []),
        "of 200 words, with 190 MB of rescoring": (big, {}, []),
        "the same without rescoring": (big, {}, ["rescore"]),
    }


def measured(variant: Variant) -> int:
    directory, made, left_out = variant
    asked = {"directory": str(directory), "made": made, "left_out": left_out}
    command = [sys.executable, str(TESTS / "measured_load.py"), json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept: int = json.loads(done.stdout)["kept"]
    return kept


def prediction_table(rounds: int) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, variant in variants(Path(temporary)).items():
            directory, made, left_out = variant
            files = {inside: Path(file) for inside, file in made.items()}
            predicted = models.predict(directory, files, rescoring=not left_out).model
            seen = [measured(variant) for _ in range(rounds)]
            rows.append(
                [
                    name,
                    f"{predicted / MB:.0f} MB",
                    spread([kept / MB for kept in seen], ".0f") + " MB",
                    spread([predicted / kept for kept in seen], ".2f"),
                ]
            )
            print(rows[-1], file=sys.stderr)
    print(table(HEAD, rows))


def change_table(changes: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        embedded = models.find_model("vosk-model-small-ko-0.22", Path("/nonexistent"))
        make_small_model(embedded.directory, home / "other", SMALL_WORDS.split())
        file = home / "settings.toml"
        names = itertools.cycle(["other", "vosk-model-small-ko-0.22"])
        file.write_text(f'models_dir = "{home}"\nmodel = "vosk-model-small-ko-0.22"\n')
        with server("prepared", MODELSERVER_CONFIG=str(file)) as running:
            counts, times = _change(running, file, home, [next(names) for _ in range(changes)])
    answered = sum(counts.values())
    lost = answered - counts[200]
    print(
        table(
            ["changes under load", "requests", "lost", "SIGHUP to the first new answer"],
            [[str(changes), str(answered), str(lost), f"{spread(times)} s"]],
        )
    )


def _change(
    running: RunningServer, file: Path, home: Path, names: list[str]
) -> tuple[Counter[int], list[float]]:
    clips = [wav(pcm) for pcm in utterances.utterances(None, 8)]
    counts: Counter[int] = Counter()
    heard: list[tuple[float, str]] = []
    over = threading.Event()

    def client(first: int) -> None:
        for clip in itertools.cycle(clips[first:] + clips[:first]):
            if over.is_set():
                return
            try:
                answer = running.convert(clip)
            except OSError:
                counts[0] += 1
                continue
            counts[answer.status] += 1
            heard.append((time.monotonic(), answer.json.get("model", "")))

    times = []
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as threads:
        working = [threads.submit(client, number) for number in range(CLIENTS)]
        for name in names:
            file.write_text(f'models_dir = "{home}"\nmodel = "{name}"\n')
            seen, told = len(heard), time.monotonic()
            running.process.send_signal(signal.SIGHUP)
            while not (new := [at for at, model in heard[seen:] if model == name]):
                assert time.monotonic() - told < 60, f"{name} was not served within a minute"
                time.sleep(0.002)
            times.append(new[0] - told)
            # Over when the fork server before has gone.
            while len(psutil.Process(running.process.pid).children()) > 1:
                time.sleep(0.01)
        over.set()
        for future in working:
            future.result()
    return counts, times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--changes", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.rounds:
        prediction_table(arguments.rounds)
        print()
    change_table(arguments.changes)


if __name__ == "__main__":
    main()
