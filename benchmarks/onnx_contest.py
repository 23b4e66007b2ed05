"""ONNX models behind this server and other servers that people run them with: throughput, latency,
memory, killed workers, 600 MB. Two parts of `bench.py`: Whisper base, and a model of SenseVoice's
shape.

`onnx_contestants.py` describes the contestants. "No server": as many forked processes
as there are workers, without any server.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import psutil
from contest import in_turn, memory
from contestants import Start
from deaths import deaths
from findings import Asked, Finding, Table, say
from load import closed
from mixed import recording
from onnx_bare import bare_onnx
from onnx_contestants import (
    OnnxModel,
    Servers,
    faster_whisper_processes,
    faster_whisper_threads,
    sense_voice_shape,
    whisper_base,
)
from parts import MB, memory_cgroup
from server import WORKERS
from tables import spread

_SMALL = 600 * MB
_SMALL_WORKERS = 4
_SHORT_S, _LONG_S = 5.0, 60.0


def whisper(asked: Asked) -> Finding:
    """Compare servers of Whisper base."""
    finding = _compare(asked, whisper_base(), faster_whisper_threads, faster_whisper_processes)
    finding.notes += [
        "Of a file of 60 s, sherpa-onnx's server transcribes only the first 30 s.",
        "Whisper repeats itself in synthetic speech; the longer its text, the longer it takes.",
        "The texts of two servers differ, as they cut the audio at different moments.",
    ]
    return finding


def sense_voice(asked: Asked) -> Finding:
    """Compare servers of a model of SenseVoice's shape."""
    return _compare(asked, sense_voice_shape())


def _compare(asked: Asked, model: OnnxModel, *others: Start) -> Finding:
    starts = [*Servers(model).everyone(), *others]
    with contextlib.ExitStack() as stack:
        limit = stack.enter_context(contextlib.closing(bare_onnx(model, asked.audio, WORKERS)))
        servers = [stack.enter_context(start(WORKERS)) for start in starts]
        finding = in_turn(asked, servers, limit, title="Throughput")
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
