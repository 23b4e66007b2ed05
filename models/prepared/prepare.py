"""Makes a prepared model: all of it, or nothing.

It is made in a directory beside its final one, checked against its original, and moved there in one
step. A process that is killed meanwhile leaves a directory that is never used; the next process
removes it.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from models.contract import ModelError, ModelLocation
from models.durable import place_tree
from models.locks import Held, hold
from models.prepared.attempts import forget, must_not_have_failed, remember
from models.prepared.leftovers import remove_partials
from models.prepared.maker import Made, Maker, must_be_affordable
from models.prepared.manifest import FileStamp, Manifest, directory_name, key_of, write_manifest
from models.prepared.store import LOCK_PREFIX, PARTIAL_PREFIX, PreparedModel, find_prepared

Make = Callable[[Path], Made]
"""Function that makes the files in an empty directory, with links to the rest, and checks them.
Raises `ModelError`, `OSError`."""


def prepare(
    location: ModelLocation,
    store: Path,
    maker: Maker,
    begin: Callable[[], tuple[str, Make]],
    *,
    available_memory: int,
    output: Path | None = None,
    again: bool = True,
) -> PreparedModel:
    """Prepare the model at `location` into `store`, or into the directory `output`.

    A complete one that exists already is returned as it is. `begin`: gets ready and returns what
    the result depends on beside the model, such as versions, and the function that makes it.
    `available_memory` in bytes. Unless `again`, an attempt that would repeat a failure is not made.
    Raises `ModelError`.
    """
    found = find_prepared(location, store, maker).prepared
    if found is not None and output is None:
        return found
    if output is not None and output.exists():
        raise ModelError("already_there", f"{output} is there already")
    needs = maker.estimate_needs(location.directory)
    home = output.parent if output is not None else store
    try:
        home.mkdir(parents=True, exist_ok=True)
        key = key_of(maker.stamp_sources(location.directory), maker.version)
        # Locked by the sources: two names of one model make the same files.
        with locked(home, key, location.name):
            # The process that held the lock before may have made it.
            found = find_prepared(location, store, maker).prepared
            if found is not None and output is None:
                return found
            remove_partials(home, ours=key, others=output is None)
            must_be_affordable(needs, available_memory, home)
            by, make = begin()
            if not again:
                must_not_have_failed(store, key, by)
            forget(store, key)
            target = output or store / directory_name(location.name, key)
            try:
                return _make(location, target, maker, make)
            except ModelError as error:
                remember(store, key, location.name, by, error)
                raise
    except OSError as error:
        where = error.filename or home
        raise ModelError("cannot_write", f"{where}: {error.strerror}") from error


def _make(location: ModelLocation, target: Path, maker: Maker, make: Make) -> PreparedModel:
    started = time.monotonic()
    sources = maker.stamp_sources(location.directory)
    key = key_of(sources, maker.version)
    with _partial(target.parent, key) as partial:
        made = make(partial)
        manifest = Manifest(
            name=location.name,
            language=location.language,
            key=key,
            original=str(location.directory),
            sources=sources,
            made={name: FileStamp.of(partial / name) for name in made_names(partial)},
            seconds=round(time.monotonic() - started, 1),
            peak_bytes=made.peak_bytes,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            maker=maker.version,
            counts=made.counts,
        )
        write_manifest(partial, manifest)
        if maker.stamp_sources(location.directory) != sources:
            raise ModelError("model_changed", f"{location.directory} changed meanwhile")
        place_tree(partial, target)
    return PreparedModel(target, manifest)


def made_names(partial: Path) -> list[str]:
    """Return the names of the files in a directory that are not links."""
    files = (file for file in sorted(partial.rglob("*")) if not file.is_symlink())
    return [str(file.relative_to(partial)) for file in files if file.is_file()]


@contextlib.contextmanager
def locked(home: Path, key: str, name: str) -> Iterator[None]:
    """Hold the lock for making from the sources with this key. Raises `ModelError`, code
    `being_prepared`."""
    try:
        with hold(home / f"{LOCK_PREFIX}{key}"):
            yield
    except Held as held:
        raise ModelError(
            "being_prepared",
            f"{name} is being prepared by process {held}; its result will be used once it ends",
        ) from None


@contextlib.contextmanager
def _partial(home: Path, key: str) -> Iterator[Path]:
    """Make a new directory to make it in; it is removed at the end."""
    partial = home / f"{PARTIAL_PREFIX}{key}"
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
