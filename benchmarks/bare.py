"""The hardware's limit without a server: a loaded model, forked processes, no HTTP.

Run as a process of its own, so that the allocator can be chosen; reads commands from standard input
and answers each with a line of JSON.
"""

import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import utterances

import models
from models.processor import processor_flags
from models.vosk.blas import AUTO, blas_environment
from models.vosk.prepared import find_prepared
from models.vosk.simd import SAME_AS, SIMD, SimdLibrary, must_run
from modelserver.settings import Settings
from supervisor.processes.environment import choose_allocator, find_jemalloc, process_environment
from supervisor.settings import Allocator

MODES = ("new", "kept", "prepared")
"""A new recogniser for every request, one kept, and the prepared model."""

SIMD_VARIABLE = "BENCHMARK_SIMD"
"""The variant of our SIMD library that the process was started for."""


class Bare:
    """The parent's hand on a process that runs `decode_on_command` below."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.loaded = self._answer()

    def run(self, times: int = 1) -> dict[str, Any]:
        """Decode the whole set so many times, without a pause: wall seconds, audio seconds,
        memory."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"run {times}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def bare_vosk(mode: str, processes: int, audio: str, count: int, allocator: str) -> Bare:
    """Start a process that runs `main` below, with the environment of a fork server."""
    lazy = mode != "prepared"
    choice = choose_allocator(Allocator(allocator), find_jemalloc(), huge_pages=lazy)
    flags = processor_flags()
    ours = None
    if not lazy:
        ours = SimdLibrary(SIMD.build(Settings().prepared_dir), must_run(flags, AUTO))
    blas = AUTO if lazy else SAME_AS
    layers = [os.environ, choice.variables, blas_environment(blas, flags)]
    if ours is not None:
        layers += [ours.environment, {SIMD_VARIABLE: ours.variant}]
    command = [__file__, mode, str(processes), audio, str(count)]
    return Bare(command, process_environment(*layers))


def anonymous(pid: int) -> int:
    """Anonymous memory of a process, shared pages counted by their share (Pss_Anon)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    match = re.search(r"^Pss_Anon:\s+(\d+)", rollup, re.MULTILINE)
    assert match is not None
    return int(match.group(1)) * 1024


def _decode(model: models.Model, pcm: bytes) -> None:
    recognizer = model.recognizer(models.RecognitionOptions())
    for at in range(0, len(pcm), model.chunk_bytes):
        models.run_steps(recognizer.accept(pcm[at : at + model.chunk_bytes]))
    models.run_steps(recognizer.finish())
    recognizer.close()


def decode_on_command(
    decode: Callable[[bytes], None], audio: list[bytes], processes: int, loaded: Mapping[str, Any]
) -> None:
    """Fork processes that decode the audio at each line of standard input: `run TIMES`. Prints
    `loaded` first, and after each line wall seconds, audio seconds and anonymous memory."""
    print(json.dumps({"anonymous": anonymous(os.getpid()), **loaded}), flush=True)
    fork = multiprocessing.get_context("fork")
    taken = fork.Value("i", 0)
    pipes, children = [], []
    for _ in range(processes):
        ours, theirs = fork.Pipe()
        child = fork.Process(target=_child, args=(decode, audio, taken, theirs), daemon=True)
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    for command in sys.stdin:
        taken.value, times = 0, int(command.split()[1])
        started = time.monotonic()
        for pipe in pipes:
            pipe.send(times)
        for pipe in pipes:
            pipe.recv()
        wall_s = time.monotonic() - started
        pids = [os.getpid(), *(child.pid for child in children)]
        print(json.dumps({
            "wall_s": wall_s,
            "audio_s": times * sum(map(utterances.seconds, audio)),
            "anonymous": [anonymous(pid) for pid in pids if pid is not None],
        }), flush=True)  # fmt: skip


def _child(
    decode: Callable[[bytes], None], audio: list[bytes], taken: Any, pipe: Connection
) -> None:
    while True:
        times = pipe.recv()
        while True:
            with taken.get_lock():
                number = taken.value
                taken.value += 1
            if number >= times * len(audio):
                break
            decode(audio[number % len(audio)])
        pipe.send("done")


def main(mode: str, processes: int, directory: str, count: int) -> None:
    audio = utterances.utterances(Path(directory) if directory else None, count)
    settings = Settings()
    location = models.find_model("auto", settings.models_dir)
    made = {}
    if mode == "prepared":
        prepared = find_prepared(location, settings.prepared_dir).prepared
        assert prepared is not None, "prepare the model first: modelserver models prepare"
        made = dict(prepared.made)
    started = time.monotonic()
    variant = os.environ.get(SIMD_VARIABLE)
    model: Any = models.engine_named("vosk").load(location, {"made": made, "simd": variant})
    load_s = time.monotonic() - started
    if variant is not None:
        model.warm(models.warm_up_clips("ko", model.sample_rate))
        assert "not_packed" not in model.report()["details"], model.report()

    def decode(pcm: bytes) -> None:
        if mode == "new":
            model._free.clear()
        _decode(model, pcm)

    decode_on_command(decode, audio, processes, {"load_s": load_s, **model.report()})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
