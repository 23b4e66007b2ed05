"""The graph compiler: a small C++ program with OpenFst, built where it is needed, run as a process
of its own."""

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.contract import ModelError
from models.prepared.asking import ended_by_signal
from models.vosk.building import Built, compiler_is_here
from models.vosk.layout import DISAMBIG, HCL, LAZY, STATIC

PROGRAM = "modelserver-compile-graph"
"""Name of the program where it is installed ready made."""

GRAPH_COMPILER = Built(
    "compile-graph",
    (Path(__file__).parent / "source" / "compile_graph.cc",),
    ("-O2", "-std=c++17"),
    ("-lfstngram", "-lfst", "-ldl", "-pthread"),
    "the wheel for this kind of machine, or: apt-get install g++ libfst-dev",
    lambda program: (str(program), "version"),
    lambda: [Path(found)] if (found := shutil.which(PROGRAM)) else [],
)
_CODES = {3: "graph_too_large", 4: "no_space", 6: "needs_too_much"}
_DIFFERS = 5
"""Exit statuses of the program, by error code."""


@dataclass(frozen=True, slots=True)
class GraphCounts:
    """Size of a graph, complete or in progress."""

    states: int
    arcs: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """Graph that was written."""

    counts: GraphCounts
    peak_bytes: int


def can_build() -> bool:
    """Return whether a compiler and OpenFst's headers are installed. Raises `ModelError`, code
    `cannot_afford`, if the compiler was ended while it was tried."""
    if not compiler_is_here():
        return False
    probe = subprocess.run(
        ["g++", "-x", "c++", "-std=c++17", "-fsyntax-only", "-"],
        input=b"#include <fst/extensions/ngram/ngram-fst.h>\n",
        capture_output=True,
        check=False,
    )
    if probe.returncode < 0 or b"signal terminated program" in probe.stderr:
        raise ModelError("cannot_afford", "the compiler was ended while it was tried")
    return probe.returncode == 0


def compose(
    program: Path,
    graphs: Path,
    out: Path,
    words: Path,
    max_bytes: int,
    on_progress: Callable[[GraphCounts], None],
    *,
    max_memory: int | None = None,
) -> Compiled:
    """Write the compiled graph of the model whose graphs are in the directory `graphs` to `out`.

    Halves are composed, and their word list is written to `words`; a static graph is copied, so
    that it can be mapped. Raises `ModelError`: `graph_too_large` past `max_bytes` (0: no limit),
    `needs_too_much` past `max_memory` bytes (None: no limit), `no_space` if the disk fills up to
    its reserve, `killed`, `compile_failed`.
    """
    if (graphs / HCL).is_file():
        arguments = ["compose", *_parts(graphs), str(out), str(words), str(max_bytes)]
    else:
        arguments = ["align", str(graphs / STATIC), str(out), str(max_bytes)]
    return _run(program, arguments, on_progress, max_memory)


def compare(program: Path, graphs: Path, made: Path, states: int) -> GraphCounts:
    """Walk the graph of the model whose graphs are in the directory `graphs` and the graph `made`
    from it side by side, until `states` states of a composition are visited, or all of them.

    Return the counts that were compared. Raises `ModelError`, code `answers_differ`, at the first
    state whose arcs, labels or weights are not the same.
    """
    if (graphs / HCL).is_file():
        arguments = ["compare", *_parts(graphs), str(made), str(states)]
    else:
        arguments = ["same", str(graphs / STATIC), str(made)]
    return _run(program, arguments, lambda _: None).counts


def _parts(graphs: Path) -> list[str]:
    return [str(graphs / name) for name in (*LAZY, DISAMBIG)]


def _run(
    program: Path,
    arguments: list[str],
    on_progress: Callable[[GraphCounts], None],
    max_memory: int | None = None,
) -> Compiled:
    with tempfile.TemporaryFile() as errors, _process(program, arguments, errors) as process:
        if max_memory is not None:
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (max_memory, max_memory))
        assert process.stdout is not None
        counts = GraphCounts(0, 0)
        done = False
        for line in process.stdout:
            *first, states, arcs = line.split()
            counts, done = GraphCounts(int(states), int(arcs)), first == ["done"]
            on_progress(counts)
        _, wait_status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(wait_status)
        if process.returncode == 0 and done:
            return Compiled(counts, usage.ru_maxrss * 1024)
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()
    raise _failure(process.returncode, said)


def _failure(status: int, said: str) -> ModelError:
    if status < 0:
        return ended_by_signal("the graph compiler", -status)
    if status == _DIFFERS:
        return ModelError(
            "answers_differ", f"the prepared model does not answer like its original: {said}"
        )
    code = _CODES.get(status, "compile_failed")
    return ModelError(code, said or f"the graph compiler exited with {status}")


@contextmanager
def _process(
    program: Path, arguments: list[str], errors: object
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [str(program), *arguments],
        # the program ends when this process does, whichever thread started it
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )  # type: ignore[call-overload]
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()
        process.stdin.close()
        process.stdout.close()
