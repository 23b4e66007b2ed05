"""Run the benchmarks one after the other and write a report: `make bench`.

    python benchmarks/bench.py [NAME ...] [--full] [--rounds N] [--compare COMMIT]
                               [--audio DIR] [--report DIR] [--keep]

Without names: what fits into 25 minutes on two processors; with --full all of it, which
takes hours. --compare measures another commit's server beside this one, in the same rounds. --keep
copies figures and plots to docs/benchmarks/; `scripts/reference` writes docs/benchmarks.md and the
tables of the READMEs from them.
"""

import argparse
import contextlib
import datetime
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import utterances
from contest import closed_loop, open_loop, vosk_memory
from deaths import vosk_deaths
from findings import Asked, Finding, LeftOutError
from growth import growth
from live import carried
from lone_stream import lone_stream
from mixed import mixed
from onnx_contest import sense_voice, whisper
from page import ROOT, Section, machine, write
from processor_time import processor_time
from squeeze import squeeze

REPORT = Path(__file__).with_name("report")
_COUNT, _LONGEST_S = 10, 10.0
_FULL_COUNT, _FULL_LONGEST_S = 40, 30.0


@dataclass(frozen=True)
class Benchmark:
    """A comparison of servers: a section of the report, which begins with `about`."""

    title: str
    about: str
    run: Callable[[Asked], Finding]


BENCHMARKS = {
    "throughput": Benchmark(
        "Throughput",
        "Seconds of audio transcribed per second, with eight clients that never pause.",
        closed_loop,
    ),
    "latency": Benchmark(
        "Latency against offered load",
        "How long requests take that arrive at random, below and above a server's throughput.",
        open_loop,
    ),
    "streams": Benchmark(
        "Live streams", "How many live streams receive their results in time.", carried
    ),
    "lone_stream": Benchmark(
        "Latency of one stream",
        "One live stream on an idle machine: the first partial result and the final text.",
        lone_stream,
    ),
    "memory": Benchmark(
        "Memory over workers",
        "Memory after all files were transcribed, for several numbers of workers.",
        vosk_memory,
    ),
    "squeeze": Benchmark(
        "A memory squeeze", "Answers and OOM kills when memory becomes short.", squeeze
    ),
    "deaths": Benchmark(
        "Killed workers",
        "Requests lost, and the time to recover, when processes are killed under load.",
        vosk_deaths,
    ),
    "growth": Benchmark("Growth over requests", "Memory while requests are answered.", growth),
    "mixed": Benchmark(
        "Long recordings", "A long recording and short files at the same time.", mixed
    ),
    "whisper": Benchmark(
        "Whisper",
        "Whisper base in several servers: the same weights with 8 bits, one thread per request.",
        whisper,
    ),
    "sense_voice": Benchmark(
        "SenseVoice's shape",
        "A model of SenseVoice-Small's size and operators with random weights, in several servers: "
        "the same weights with 8 bits, one thread per request.",
        sense_voice,
    ),
    "processor": Benchmark(
        "Processor time", "Milliseconds of one processor per second of audio.", processor_time
    ),
}

SCRIPTS = {
    "engines": "one model, loaded in three ways",
    "serving": "the server beside the decoder alone",
    "stream-details": "live streams in detail",
    "restarts": "upgrades under load",
    "guard": "the guard and the OOM killer",
    "hostile": "ten thousand malformed files and bodies",
    "soak": "everything at once",
}
"""Scripts that print their own tables, which `--full` runs too."""

_SCRIPT_FILES = {"stream-details": "streams.py"}


def main() -> None:
    """Run all that was asked for. The exit status is 1 if one of them failed."""
    asked = _arguments()
    if asked.keep and asked.names:
        sys.exit("--keep needs a run of all benchmarks: name none")
    names = asked.names or list(BENCHMARKS)
    if asked.full and not asked.names:
        names += list(SCRIPTS)
    count, longest_s = (_FULL_COUNT, _FULL_LONGEST_S) if asked.full else (_COUNT, _LONGEST_S)
    audio = asked.audio or utterances.varied(count, longest_s)
    facts = machine() | {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": " ".join(["python", "benchmarks/bench.py", *sys.argv[1:]]),
    }
    sections, began = [], time.monotonic()
    another = checked_out(asked.compare) if asked.compare else contextlib.nullcontext()
    with another as before:
        given = Asked(
            full=asked.full,
            rounds=asked.rounds or (5 if asked.full else 3),
            audio=audio,
            before=before,
            before_name=f"before ({asked.compare})" if asked.compare else "",
        )
        for number, name in enumerate(names, 1):
            passed = time.monotonic() - began
            print(f"[{number}/{len(names)}] {name}, after {passed:.0f} s", file=sys.stderr)
            sections.append(_one(name, given))
            for target in sections[-1].finding.targets:
                print(f"    {target}", file=sys.stderr)
            write(asked.report, facts, sections)
    print(f"{asked.report / 'index.html'}, after {time.monotonic() - began:.0f} s")
    if asked.keep:
        _keep(asked.report)
    sys.exit(any(one.failed.startswith("failed") for one in sections))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*BENCHMARKS, *SCRIPTS, []],
                        help=f"of {', '.join([*BENCHMARKS, *SCRIPTS])}")  # fmt: skip
    parser.add_argument("--full", action="store_true", help="all of them, which takes hours")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--compare", metavar="COMMIT", default="")
    parser.add_argument("--audio", type=Path, help="directory of 16 kHz mono WAV files")
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument("--keep", action="store_true", help="copy it to docs/benchmarks/")
    return parser.parse_args()


def _one(name: str, asked: Asked) -> Section:
    began = time.monotonic()
    finding, failed, output = Finding(), "", ""
    if name in BENCHMARKS:
        title, about = BENCHMARKS[name].title, BENCHMARKS[name].about
        try:
            finding = BENCHMARKS[name].run(asked)
        except LeftOutError as error:
            failed = str(error)
        except Exception as error:  # noqa: BLE001 - the others are still worth their time
            failed = f"failed: {type(error).__name__}: {error}"
    else:
        title, about = f"{name}: {SCRIPTS[name]}", f"The output of `{_script(name).name}`."
        command = [sys.executable, str(_script(name))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        output = done.stdout
        if done.returncode != 0:
            failed = f"failed with {done.returncode}: {done.stderr[-500:]}"
    if failed:
        print(f"    {failed}", file=sys.stderr)
    return Section(name, title, about, time.monotonic() - began, finding, failed, output)


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Check a commit out into a directory and remove it at the end."""
    with tempfile.TemporaryDirectory() as directory:
        tree = str(Path(directory) / "tree")
        subprocess.run(["git", "worktree", "add", "--detach", tree, commit], cwd=ROOT, check=True)
        try:
            yield Path(tree)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def _script(name: str) -> Path:
    return Path(__file__).with_name(_SCRIPT_FILES.get(name, f"{name.replace('-', '_')}.py"))


def _keep(report: Path) -> None:
    """Copy the figures and the plots to docs/benchmarks/."""
    pictures = ROOT / "docs" / "benchmarks"
    pictures.mkdir(exist_ok=True)
    for old in pictures.glob("*.png"):
        old.unlink()
    for plot in report.glob("*.png"):
        shutil.copy(plot, pictures)
    shutil.copy(report / "results.json", pictures)


if __name__ == "__main__":
    main()
