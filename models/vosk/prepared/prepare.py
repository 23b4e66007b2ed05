"""Makes a prepared model: all of it, or nothing.

It is made in a directory beside its place, checked against its original, and moved there in one
step. A process that is killed meanwhile leaves a directory that is never used; the next one removes
it.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from models.contract import ModelError, ModelLocation
from models.durable import place_tree
from models.locks import Held, hold
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
from models.vosk.prepared.attempts import forget, must_not_have_failed, remember, versions
from models.vosk.prepared.compiler import GRAPH_COMPILER, Compiled, GraphCounts, compare, compose
from models.vosk.prepared.leftovers import remove_partials
from models.vosk.prepared.manifest import (
    FileStamp,
    Manifest,
    directory_name,
    key_of,
    write_manifest,
)
from models.vosk.prepared.needs import estimate_needs, must_be_affordable
from models.vosk.prepared.selfcheck import Starting, must_answer_alike
from models.vosk.prepared.store import LOCK_PREFIX, PARTIAL_PREFIX, PreparedModel, find_prepared
from models.vosk.prepared.structure import structure_problem
from models.vosk.view import make_view, served_features

Progress = Callable[[str, GraphCounts], None]
"""Told of each phase ("compiler", "graph", "check", "place") and how far the graph is."""

_COMPARED_STATES = 200_000
"""Of a composed graph, visited at random: some five seconds. A small graph has fewer."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What preparing may take at the most: bytes of the graph (0: no limit), and of memory to
    compose it (None: no limit)."""

    graph: int = 0
    memory: int | None = None


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
    """Prepare the model at `location` into `store`, or into the directory `output`.

    One that is there already and whole is returned as it is. `available_memory` in bytes.
    `starting`: how servers start the process that loads a model, for the self-check. Unless
    `again`, an attempt that would repeat a failure is not made. Raises `ModelError`.
    """
    found = find_prepared(location, store).prepared
    if found is not None and output is None:
        return found
    if output is not None and output.exists():
        raise ModelError("already_there", f"{output} is there already")
    needs = estimate_needs(location.directory)
    home = output.parent if output is not None else store
    try:
        home.mkdir(parents=True, exist_ok=True)
        key = key_of(stamp_sources(location.directory))
        # By what it is made from: two names of one model make the same.
        with locked(home, key, location.name):
            # The process that held the lock before may have made it.
            found = find_prepared(location, store).prepared
            if found is not None and output is None:
                return found
            remove_partials(home, ours=key, others=output is None)
            must_be_affordable(needs, available_memory, home)
            on_progress("compiler", GraphCounts(0, 0))
            program = GRAPH_COMPILER.build(store)
            by = versions(program)
            if not again:
                must_not_have_failed(store, key, by)
            forget(store, key)
            target = output or store / directory_name(location.name, key)
            try:
                return _make(location, target, program, bounds, starting, on_progress)
            except ModelError as error:
                remember(store, key, location.name, by, error)
                raise
    except OSError as error:
        where = error.filename or home
        raise ModelError("cannot_write", f"{where}: {error.strerror}") from error


def _make(
    location: ModelLocation,
    target: Path,
    program: Path,
    bounds: Bounds,
    starting: Starting | None,
    on_progress: Progress,
) -> PreparedModel:
    started = time.monotonic()
    sources = stamp_sources(location.directory)
    key = key_of(sources)
    with _partial(target.parent, key) as partial:
        compiled = _make_files(location, partial, program, bounds, on_progress)
        made_names = _made_names(partial)
        on_progress("check", compiled.counts)
        must_be_the_same_graph(program, location, partial)
        made = {name: partial / name for name in made_names}
        must_answer_alike(location.directory, location.language, made, starting)
        on_progress("place", compiled.counts)
        manifest = Manifest(
            name=location.name,
            language=location.language,
            key=key,
            original=str(location.directory),
            sources=sources,
            made={name: FileStamp.of(partial / name) for name in made_names},
            states=compiled.counts.states,
            arcs=compiled.counts.arcs,
            seconds=round(time.monotonic() - started, 1),
            peak_bytes=compiled.peak_bytes,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_manifest(partial, manifest)
        if stamp_sources(location.directory) != sources:
            raise ModelError("model_changed", f"{location.directory} changed meanwhile")
        place_tree(partial, target)
    return PreparedModel(target, manifest)


def must_be_the_same_graph(program: Path | None, location: ModelLocation, prepared: Path) -> None:
    """The graph in the directory `prepared` can be walked, and is the original's as far as
    `program` (None: not at all) compares it. Raises `ModelError`, code `answers_differ`."""
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


def _made_names(partial: Path) -> list[str]:
    """What is no link was made here."""
    files = (file for file in sorted(partial.rglob("*")) if not file.is_symlink())
    return [str(file.relative_to(partial)) for file in files if file.is_file()]


def stamp_sources(model: Path) -> dict[str, FileStamp]:
    """What decides the result: the graphs, their disambiguation labels, and the features."""
    directory = graph_directory(model)
    files = [directory / name for name in GRAPH_SOURCES]
    files += [model / "conf" / FEATURES, model / FEATURES]
    return {str(file.relative_to(model)): FileStamp.of(file) for file in files if file.is_file()}


@contextlib.contextmanager
def locked(home: Path, key: str, name: str) -> Iterator[None]:
    """Hold the lock of what is made from the sources with this key. Raises `ModelError`, code
    `being_prepared`."""
    try:
        with hold(home / f"{LOCK_PREFIX}{key}"):
            yield
    except Held as held:
        raise ModelError("being_prepared", f"{name} is being prepared by process {held}") from None


@contextlib.contextmanager
def _partial(home: Path, key: str) -> Iterator[Path]:
    """A new directory to make it in."""
    partial = home / f"{PARTIAL_PREFIX}{key}"
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
