"""The graph compiler: a small C++ program around OpenFst, built where it is needed, run as a
process of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.building import Built, compiler_is_here
from models.contract import ModelError

PROGRAM = "modelserver-compile-graph"
"""Its name where it is installed ready made."""

HOW_TO_GET_IT = "apt-get install g++ libfst-dev"

_BUILT = Built(
    "compile-graph",
    (Path(__file__).parent.parent / "compiler" / "compile_graph.cc",),
    ("-O2", "-std=c++17"),
    ("-lfstngram", "-lfst", "-ldl", "-pthread"),
    HOW_TO_GET_IT,
)
_TOO_LARGE = 3


@dataclass(frozen=True, slots=True)
class GraphCounts:
    """How large a graph is, or how far it has been made."""

    states: int
    arcs: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """A graph that was written."""

    counts: GraphCounts
    peak_bytes: int


def find_compiler(cache: Path) -> Path | None:
    """The program, installed or built before; None if it would have to be built."""
    installed = shutil.which(PROGRAM)
    if installed is not None:
        return Path(installed)
    built = _BUILT.path(cache)
    return built if os.access(built, os.X_OK) else None


def can_build() -> bool:
    """A compiler and OpenFst's headers are here."""
    if not compiler_is_here():
        return False
    probe = subprocess.run(
        ["g++", "-x", "c++", "-std=c++17", "-fsyntax-only", "-"],
        input=b"#include <fst/extensions/ngram/ngram-fst.h>\n",
        capture_output=True,
        check=False,
    )
    return probe.returncode == 0


def get_compiler(cache: Path) -> Path:
    """The program, built into `cache` if it has to be. Raises `ModelError`."""
    return find_compiler(cache) or _BUILT.build(cache)


def compose(
    program: Path,
    graph_directory: Path,
    out: Path,
    words: Path,
    max_bytes: int,
    on_progress: Callable[[GraphCounts], None],
) -> Compiled:
    """Compose the lazily composed graph in `graph_directory` into the file `out`.

    Raises `ModelError`: `graph_too_large` past `max_bytes` (0: no limit), `compile_failed`.
    """
    arguments = [
        "compose",
        str(graph_directory / "HCLr.fst"),
        str(graph_directory / "Gr.fst"),
        str(graph_directory / "disambig_tid.int"),
        str(out),
        str(words),
        str(max_bytes),
    ]
    return _run(program, arguments, on_progress)


def align(
    program: Path, graph: Path, out: Path, on_progress: Callable[[GraphCounts], None]
) -> Compiled:
    """Write a static graph anew as an aligned const one. Raises `ModelError`."""
    return _run(program, ["align", str(graph), str(out)], on_progress)


def check(program: Path, graph: Path) -> GraphCounts:
    """Read the graph once: no arc leads out of it. Raises `ModelError`."""
    return _run(program, ["check", str(graph)], lambda _: None).counts


def _run(
    program: Path, arguments: list[str], on_progress: Callable[[GraphCounts], None]
) -> Compiled:
    with tempfile.TemporaryFile() as errors, _process(program, arguments, errors) as process:
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
    if status == _TOO_LARGE:
        return ModelError("graph_too_large", said)
    if status < 0:
        return ended_by_signal("the graph compiler", -status)
    return ModelError("compile_failed", said or f"the graph compiler exited with {status}")


def ended_by_signal(what: str, number: int) -> ModelError:
    """A process that preparing needs was ended: `killed` by SIGKILL, or else `compile_failed`."""
    code = "killed" if number == signal.SIGKILL else "compile_failed"
    return ModelError(code, f"{what} was ended by {signal.Signals(number).name}")


@contextmanager
def _process(
    program: Path, arguments: list[str], errors: object
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [str(program), *arguments],
        stdin=subprocess.DEVNULL,
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
        process.stdout.close()
