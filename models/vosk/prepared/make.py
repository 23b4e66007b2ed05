"""Preparation of a Vosk model: its compiled graph, word list and features."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.contract import ModelError, ModelLocation
from models.prepared.maker import Made, Needs
from models.prepared.manifest import FileStamp, Manifest
from models.prepared.prepare import made_names
from models.prepared.prepare import prepare as prepare_any
from models.prepared.store import PreparedModel
from models.prepared.view import make_view
from models.vosk.features import served_features
from models.vosk.graph_file import graph_problem
from models.vosk.layout import (
    FEATURES,
    GRAPH_SOURCES,
    HCL,
    LAZY_INSIDE,
    STATIC,
    WORDS,
    graph_directory,
)
from models.vosk.prepared.compiler import GRAPH_COMPILER, Compiled, GraphCounts, compare, compose
from models.vosk.prepared.needs import estimate_needs
from models.vosk.prepared.selfcheck import Starting, must_answer_alike
from models.vosk.prepared.structure import structure_problem

Progress = Callable[[str, GraphCounts], None]
"""Receiver of each phase ("compiler", "graph", "check", "place"), and of the progress of the
graph."""

_COMPARED_STATES = 200_000
"""States of a composed graph that are visited at random: some five seconds. A small graph has
fewer."""

_FOLDERS = ("", "graph/", "conf/")
_MADE = frozenset(f + n for f in _FOLDERS for n in (STATIC, WORDS, FEATURES))
_SOURCES = frozenset(f + n for f in _FOLDERS for n in (*GRAPH_SOURCES, FEATURES))


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of preparing: bytes of the graph (0: no limit), and bytes of memory to compose it
    (None: no limit)."""

    graph: int = 0
    memory: int | None = None


class VoskMaker:
    """Implements `models.prepared.maker.Maker`."""

    version = "compile-graph 1"

    def stamp_sources(self, model: Path) -> dict[str, FileStamp]:
        """Return the graphs, their disambiguation labels, and the features."""
        directory = graph_directory(model)
        files = [directory / name for name in GRAPH_SOURCES]
        files += [model / "conf" / FEATURES, model / FEATURES]
        return {
            str(file.relative_to(model)): FileStamp.of(file) for file in files if file.is_file()
        }

    def estimate_needs(self, model: Path) -> Needs:
        """See `Maker`."""
        return estimate_needs(model)

    def knows(self, manifest: Manifest) -> bool:
        """See `Maker`."""
        return manifest.sources.keys() <= _SOURCES and manifest.made.keys() <= _MADE

    def damage(self, directory: Path) -> str | None:
        """See `Maker`."""
        return graph_problem(compiled_graph(directory))

    def link(self, original: Path, prepared: Path, made: frozenset[str]) -> None:
        """See `Maker`."""
        make_view(original, prepared, {}, made | LAZY_INSIDE)

    def check_import(
        self, location: ModelLocation, prepared: Path, store: Path, available_memory: int
    ) -> None:
        """Check every state and arc of the graph; compare it with the original, too, if the graph
        compiler is installed and memory suffices."""
        program = GRAPH_COMPILER.find(store)
        if available_memory < estimate_needs(location.directory).memory:
            program = None
        must_be_the_same_graph(program, location, prepared)


MAKER = VoskMaker()


def compiled_graph(prepared: Path) -> Path:
    """Return the compiled graph of the prepared model in a directory (a link if the original's own
    could be used)."""
    return graph_directory(prepared) / STATIC


def prepare(
    location: ModelLocation,
    store: Path,
    *,
    available_memory: int,
    output: Path | None = None,
    bounds: Bounds = Bounds(),
    starting: Starting | None = None,
    again: bool = True,
    on_progress: Progress = lambda *_: None,
) -> PreparedModel:
    """Prepare a Vosk model (`models.prepared.prepare.prepare`). `starting`: how servers start the
    process that loads a model, for the self-check."""

    def begin() -> tuple[str, Callable[[Path], Made]]:
        import importlib.metadata  # no process that only loads a model needs it

        on_progress("compiler", GraphCounts(0, 0))
        program = GRAPH_COMPILER.build(store)
        # The program's name has a digest of everything it is built from.
        by = f"{program.name}, vosk {importlib.metadata.version('vosk')}"
        return by, lambda partial: _make(location, partial, program, bounds, starting, on_progress)

    memory = available_memory
    return prepare_any(
        location, store, MAKER, begin, available_memory=memory, output=output, again=again
    )


def _make(
    location: ModelLocation,
    partial: Path,
    program: Path,
    bounds: Bounds,
    starting: Starting | None,
    on_progress: Progress,
) -> Made:
    compiled = _make_files(location, partial, program, bounds, on_progress)
    counts = compiled.counts
    on_progress("check", counts)
    must_be_the_same_graph(program, location, partial)
    made = {name: partial / name for name in made_names(partial)}
    must_answer_alike(location.directory, location.language, made, starting)
    on_progress("place", counts)
    return Made({"states": counts.states, "arcs": counts.arcs}, compiled.peak_bytes)


def must_be_the_same_graph(program: Path | None, location: ModelLocation, prepared: Path) -> None:
    """Check that the graph in the directory `prepared` can be walked, and is the same as the
    original's as far as `program` (None: not at all) compares it. Raises `ModelError`, code
    `answers_differ`."""
    directory = graph_directory(location.directory)
    made = prepared / directory.relative_to(location.directory) / STATIC
    problem = structure_problem(made, location.directory, made.with_name(WORDS))
    if problem is not None:
        raise ModelError("answers_differ", f"the graph that was made cannot be used: {problem}")
    if program is not None and not made.is_symlink():
        compare(program, directory, made, _COMPARED_STATES)


def _make_files(
    location: ModelLocation, partial: Path, program: Path, bounds: Bounds, on_progress: Progress
) -> Compiled:
    original = location.directory
    graphs = graph_directory(original)
    inside = graphs.relative_to(original)
    (partial / inside).mkdir(exist_ok=True)
    if not (graphs / HCL).is_file() and graph_problem(graphs / STATIC) is None:
        compiled = Compiled(GraphCounts(0, 0), 0)  # its own can be mapped as it is
    else:
        compiled = compose(
            *(program, graphs, partial / inside / STATIC, partial / inside / WORDS, bounds.graph),
            lambda counts: on_progress("graph", counts),
            max_memory=bounds.memory,
        )
    new: dict[str, bytes | Path] = dict(served_features(original))
    present = frozenset(str(file.relative_to(partial)) for file in partial.rglob("*"))
    make_view(original, partial, new, present | LAZY_INSIDE)
    return compiled
