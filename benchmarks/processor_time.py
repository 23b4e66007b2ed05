"""Processor time of a second of audio, by part. A part of `bench.py`.

perf samples the workers and the supervisor; samples in libraries are distinguished by library and
function. The supervisor's own Python is sampled by py-spy, by module.
"""

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil
import utterances
from contestants import this_server
from findings import Asked, Finding, LeftOutError, Table, say
from load import CONCURRENCY, Seen, steady

_MATRICES = r"modelserver_simd|simd.*\.so|openblas|cblas|gemm|nnet3|CuMatrix|Matrix|Vector"
_SEARCH = r"Decoder|Lattice|fst::|HashList|Token|ProcessEmitting|ProcessNonemitting|Prune"

_WORKER = (
    ("neural network", _MATRICES),
    ("search in the decoding graph", _SEARCH),
    ("features", r"Mfcc|Fbank|Fft|Mel|Feature|Ivector|Online"),
    ("reading and resampling audio", r"libav|libsw|av\.|resampl"),
    ("allocator", r"jemalloc|malloc|free"),
    ("Python", r"libpython|python3|\.cpython-"),
    ("kernel", r"\[kernel|\[k\]|kallsyms"),
)
"""Parts of a sample, by function and library; the first that fits counts."""

_SUPERVISOR = (
    ("HTTP", r"modelserver/http|aiohttp|multidict|yarl"),
    ("channel and spools", r"supervisor/wire|supervisor/spool|supervisor/processes"),
    ("guard and readings", r"supervisor/guard|supervisor/readings|psutil"),
    ("scheduling and accounting", r"supervisor/|modelserver/"),
)


def processor_time(asked: Asked) -> Finding:
    """Milliseconds of one processor for a second of audio."""
    if shutil.which("perf") is None:
        raise LeftOutError("it needs perf (Debian: linux-perf)")
    seconds = 20.0 if asked.full else 8.0
    files = asked.short(6.0)
    with this_server() as contestant, tempfile.TemporaryDirectory() as name:
        workers = contestant.workers()
        first = psutil.Process(contestant.pid)
        seen, over = Seen(), False

        async def run() -> tuple[float, float, int]:
            """Return the processor seconds of the supervisor and of the workers, and the files in
            that time."""
            nonlocal over
            clients = asyncio.create_task(
                steady(contestant, files, lambda: over, seen, CONCURRENCY)
            )
            await asyncio.sleep(1)
            begun, done = [_used(one) for one in (first, *workers)], len(seen.took_s)
            await asyncio.gather(
                _sample(workers, seconds, Path(name) / "workers"),
                _spy(first.pid, seconds, Path(name) / "supervisor"),
            )
            used = [_used(one) - b for one, b in zip((first, *workers), begun, strict=True)]
            done = len(seen.took_s) - done
            over = True
            await clients
            return used[0], sum(used[1:]), done

        supervisor_s, workers_s, done = asyncio.run(run())
        audio_s = done * sum(map(utterances.seconds, files)) / len(files)
        worker_parts = _parts(_perf_samples(Path(name) / "workers"), _WORKER)
        supervisor_parts = _parts(_spy_samples(Path(name) / "supervisor"), _SUPERVISOR)
    finding = Finding(
        raw={"audio_s": audio_s, "workers_s": workers_s, "supervisor_s": supervisor_s,
             "workers": worker_parts, "supervisor": supervisor_parts}
    )  # fmt: skip
    rows = []
    for who, used_s, parts in (
        ("worker", workers_s, worker_parts),
        ("supervisor", supervisor_s, supervisor_parts),
    ):
        for part, share in sorted(parts.items(), key=lambda item: -item[1]):
            rows.append(
                (who, part, f"{100 * share:.1f} %", f"{1000 * used_s * share / audio_s:.2f}")
            )
        rows.append((who, "all", "100 %", f"{1000 * used_s / audio_s:.2f}"))
    say(f"workers {1000 * workers_s / audio_s:.1f} ms, supervisor "
        f"{1000 * supervisor_s / audio_s:.2f} ms of processor for a second of audio")  # fmt: skip
    finding.notes += [
        f"{CONCURRENCY} clients send {audio_s:.0f} s of audio in clips of at most 6 s.",
        "perf and py-spy take samples, which slows the processes down a little.",
    ]
    finding.tables.append(Table("", ("process", "part", "share", "ms per second of audio"), rows))
    return finding


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _sample(workers: list[psutil.Process], seconds: float, file: Path) -> None:
    pids = ",".join(str(one.pid) for one in workers)
    process = await asyncio.create_subprocess_exec(
        "perf", "record", "-q", "-e", "cpu-clock", "-F", "299", "-p", pids, "-o", str(file),
        "--", "sleep", str(seconds), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    await process.wait()


async def _spy(pid: int, seconds: float, file: Path) -> None:
    program = Path(sys.executable).with_name("py-spy")
    if not program.exists():
        raise LeftOutError("it needs py-spy (the extra `benchmark`)")
    process = await asyncio.create_subprocess_exec(
        str(program), "record", "-p", str(pid), "-d", str(int(seconds)), "-r", "250", "-f", "raw",
        "-F", "-o", str(file), "--nonblocking", stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    await process.wait()


def _perf_samples(file: Path) -> Counter[str]:
    shown = subprocess.run(
        ["perf", "script", "-i", str(file), "-F", "ip,sym,dso"],
        capture_output=True, text=True, errors="replace", check=True,
    ).stdout  # fmt: skip
    return Counter(line.strip() for line in shown.splitlines() if line.strip())


def _spy_samples(file: Path) -> Counter[str]:
    """Count samples by the innermost function that is ours or aiohttp's."""
    counts: Counter[str] = Counter()
    for line in file.read_text().splitlines() if file.exists() else ():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        named = [f for f in frames if re.search("|".join(p for _, p in _SUPERVISOR), f)]
        counts[(named or frames)[-1]] += int(count)
    return counts


def _parts(samples: Counter[str], known: tuple[tuple[str, str], ...]) -> dict[str, float]:
    found: Counter[str] = Counter()
    for sample, count in samples.items():
        part = next((name for name, pattern in known if re.search(pattern, sample)), "other")
        found[part] += count
    total = sum(found.values()) or 1
    return {part: count / total for part, count in found.items()}
