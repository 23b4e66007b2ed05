"""Makes a prepared model: all of it, or nothing.

It is made in a directory beside its place, checked against its original, and moved there in one
step. Whoever is killed meanwhile leaves a directory that nobody uses and the next one removes.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from models.contract import ModelError
from models.durable import sync_files
from models.graph_file import graph_problem
from models.location import ModelLocation, graph_directory
from models.prepared.compiler import Compiled, GraphCounts, align, compose, get_compiler
from models.prepared.manifest import FileStamp, Manifest, key_of, write_manifest
from models.prepared.needs import estimate_needs, must_be_affordable
from models.prepared.selfcheck import must_answer_alike
from models.prepared.store import PARTIAL_PREFIX, PreparedModel, find_prepared
from models.view import make_view, without_dither

Progress = Callable[[str, GraphCounts], None]
"""Told of each phase ("compiler", "graph", "check", "place") and how far the graph is."""


def prepare(
    location: ModelLocation,
    store: Path,
    *,
    available_memory: int,
    output: Path | None = None,
    max_bytes: int = 0,
    on_progress: Progress = lambda *_: None,
) -> PreparedModel:
    """Prepare the model at `location` into `store`, or into the directory `output`.

    One that is there already and whole is returned as it is. `available_memory` in bytes;
    `max_bytes` ends a graph that would be larger (0: no limit). Raises `ModelError`.
    """
    found = find_prepared(location, store).prepared
    if found is not None and output is None:
        return found
    if output is not None and output.exists():
        raise ModelError("already_there", f"{output} is there already")
    needs = estimate_needs(location.directory)
    home = output.parent if output is not None else store
    must_be_affordable(needs, available_memory, home)
    try:
        home.mkdir(parents=True, exist_ok=True)
        # By what it is made from: two names of one model make the same.
        with locked(home, key_of(stamp_sources(location.directory)), location.name):
            # Whoever held the lock before may have made it.
            found = find_prepared(location, store).prepared
            if found is not None and output is None:
                return found
            return _make(location, store, output, max_bytes, on_progress)
    except OSError as error:
        where = error.filename or home
        raise ModelError("cannot_write", f"{where}: {error.strerror}") from error


def _make(
    location: ModelLocation, store: Path, output: Path | None, max_bytes: int, on_progress: Progress
) -> PreparedModel:
    started = time.monotonic()
    on_progress("compiler", GraphCounts(0, 0))
    program = get_compiler(store)
    sources = stamp_sources(location.directory)
    key = key_of(sources)
    target = output or store / f"{location.name}-{key}"
    with _partial(target.parent, key) as partial:
        compiled = _make_files(location, partial, program, max_bytes, on_progress)
        made_names = _made_names(partial)
        on_progress("check", compiled.counts)
        made = {name: partial / name for name in made_names}
        must_answer_alike(location.directory, location.language, made)
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
        place(partial, target)
    return PreparedModel(target, manifest)


def _make_files(
    location: ModelLocation, partial: Path, program: Path, max_bytes: int, on_progress: Progress
) -> Compiled:
    original = location.directory
    graphs = graph_directory(original)
    inside = graphs.relative_to(original)
    (partial / inside).mkdir(exist_ok=True)
    graph = partial / inside / "HCLG.fst"

    def graph_progress(counts: GraphCounts) -> None:
        on_progress("graph", counts)

    if (graphs / "HCLr.fst").is_file():
        words = partial / inside / "words.txt"
        compiled = compose(program, graphs, graph, words, max_bytes, graph_progress)
    elif graph_problem(graphs / "HCLG.fst") is None:
        compiled = Compiled(GraphCounts(0, 0), 0)  # its own can be mapped as it is
    else:
        compiled = align(program, graphs / "HCLG.fst", graph, graph_progress)
    new: dict[str, bytes | Path] = dict(without_dither(original))
    present = frozenset(str(file.relative_to(partial)) for file in partial.rglob("*"))
    lazy = frozenset({str(inside / "HCLr.fst"), str(inside / "Gr.fst")})
    make_view(original, partial, new, present | lazy)
    return compiled


def _made_names(partial: Path) -> list[str]:
    """What is no link was made here."""
    files = (file for file in sorted(partial.rglob("*")) if not file.is_symlink())
    return [str(file.relative_to(partial)) for file in files if file.is_file()]


def stamp_sources(model: Path) -> dict[str, FileStamp]:
    """What decides the result: the graphs, their disambiguation labels, and the features."""
    directory = graph_directory(model)
    names = ("HCLr.fst", "Gr.fst", "HCLG.fst", "disambig_tid.int")
    files = [directory / name for name in names] + [model / "conf/mfcc.conf", model / "mfcc.conf"]
    return {str(file.relative_to(model)): FileStamp.of(file) for file in files if file.is_file()}


def place(partial: Path, target: Path) -> None:
    """Make sure it is on disk, then move it to its place in one step. What stands there (and is
    not whole, or it would have been used) goes. Raises `OSError`."""
    sync_files(partial)
    if target.exists():
        old = target.with_name(f"{PARTIAL_PREFIX}replaced-{target.name}")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        partial.rename(target)
        shutil.rmtree(old)
    else:
        partial.rename(target)


@contextlib.contextmanager
def locked(home: Path, key: str, name: str) -> Iterator[None]:
    """One at a time for what is made and a place; the lock goes with its holder, however that
    ends. Raises `ModelError`."""
    with (home / f".lock-{key}").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ModelError(
                "being_prepared", f"{name} is being prepared by process {lock.read().strip()}"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.contextmanager
def _partial(home: Path, key: str) -> Iterator[Path]:
    """A new directory to make it in; whatever others left of the same is removed first."""
    partial = home / f"{PARTIAL_PREFIX}{key}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
