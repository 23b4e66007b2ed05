"""From a name to an installed model: nothing is unpacked before its size and checksum are right,
and nothing is seen in the models directory before it is whole."""

import contextlib
import glob
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from models.catalog import CatalogEntry, Checksum, catalog_entry, checksum_of
from models.contract import ModelError
from models.durable import remove_tree, sync, sync_tree
from models.engines import model_problem
from models.fetching.download import Bounds, discard, download
from models.fetching.pins import PINS, read_pin, record_pin
from models.fetching.unpack import name_of, top_directory, unpack
from models.leftovers import Leftover, bytes_of
from models.locks import Held, hold

Progress = Callable[[str, int, int], None]
"""Told of each phase ("download", "check", "unpack"): bytes done, and bytes in all (0: unknown)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MOST_BYTES = 16 * 10**9
"""Of a download whose size nobody has published."""
_ABOUT = 1.15
"""By how much a size that was published rounded may be off."""
_REPIN = (
    ", where the first download of it was recorded; if its publisher has replaced it, accept the "
    "new one with `modelserver models pull --repin`"
)
_LOADING = ".fetch"
_UNPACKING = "unpacking-"


async def pull(
    name: str,
    models_directory: Path,
    source: str,
    on_progress: Progress,
    *,
    pause_s: float = 0.5,
    repin: bool = False,
) -> Path:
    """Fetch the model `name` from `source` (a URL; the model is NAME.zip there) and install it.

    `repin`: accept another checksum than that of an earlier download. Returns its directory. Raises
    `ModelError`; whatever happened, no half model is left. Hashing and unpacking block: a server
    runs this in a process of its own.
    """
    if not _NAME.fullmatch(name):
        raise ModelError("bad_name", f"{name!r} is not the name of a model")
    entry = catalog_entry(name)
    with _place_for(name, models_directory) as waiting:
        file = waiting / f"{name}.zip"
        url = f"{source.rstrip('/')}/{name}.zip"
        await download(
            url,
            file,
            _bounds(entry),
            lambda here, total: on_progress("download", here, total),
            pause_s=pause_s,
        )
        try:
            with file.open("rb") as opened:
                return _install(name, opened, url, models_directory, on_progress, repin=repin)
        finally:
            discard(file)


def pull_file(
    archive: Path, models_directory: Path, on_progress: Progress, *, repin: bool = False
) -> Path:
    """Install the model in a zip file that is here already. Returns its directory.

    Raises `ModelError`.
    """
    try:
        with archive.open("rb") as opened:
            return _pull_opened(archive, opened, models_directory, on_progress, repin=repin)
    except OSError as error:
        raise ModelError("cannot_read", f"{archive}: {error.strerror}") from error


def _pull_opened(
    archive: Path, opened: BinaryIO, models_directory: Path, on_progress: Progress, *, repin: bool
) -> Path:
    name = top_directory(opened)
    if not _NAME.fullmatch(name):
        raise ModelError("bad_name", f"{archive.name} calls its model {name!r}, which is no name")
    with _place_for(name, models_directory):
        source = str(archive)
        return _install(name, opened, source, models_directory, on_progress, repin=repin)


def remove(name: str, models_directory: Path) -> Path:
    """Delete an installed model. Returns where it was. Raises `ModelError`."""
    directory = models_directory / name
    there = {found.name for found in _directories(models_directory)}
    if name not in there:
        names = ", ".join(sorted(there)) or "none"
        raise ModelError(
            "model_not_found", f"there is no {name!r} in {models_directory}; there: {names}"
        )
    try:
        remove_tree(directory, models_directory / f".{name}-removed")
    except OSError as error:
        raise ModelError("cannot_write", f"{directory}: {error.strerror}") from error
    return directory


def broken_downloads(models_directory: Path) -> list[Leftover]:
    """Return downloads that broke off, and what killed processes have left while they unpacked or
    removed a model. Raises `OSError`."""
    waiting = models_directory / _LOADING
    found = []
    for path in sorted(waiting.iterdir()) if waiting.is_dir() else ():
        if path.suffix != ".lock":
            name = path.name.removeprefix(_UNPACKING)
            name = name.rpartition("-")[0] if name != path.name else name.partition(".zip")[0]
            lock = waiting / f"{name}.lock"
            found.append(Leftover(path, "a download that broke off", bytes_of(path), lock))
    for path in sorted(models_directory.glob(".*-removed")):
        why = "left by a process that was killed while it removed a model"
        lock = models_directory / f"{path.name}.lock"
        found.append(Leftover(path, why, bytes_of(path), lock, certain=True))
    return found


def _directories(models_directory: Path) -> list[Path]:
    if not models_directory.is_dir():
        return []
    return [d for d in models_directory.iterdir() if d.is_dir() and d.name[0] != "."]


@contextlib.contextmanager
def _place_for(name: str, models_directory: Path) -> Iterator[Path]:
    """Where downloads wait; ours alone for this model."""
    target = models_directory / name
    if target.exists():
        problem = model_problem(target)
        if problem is None:
            raise ModelError("already_there", f"{name} is installed already: {target}")
        raise ModelError(
            "model_invalid", f"{target} is there and is no Vosk model ({problem}): remove it first"
        )
    waiting = models_directory / _LOADING
    try:
        waiting.mkdir(parents=True, exist_ok=True)
        with hold(waiting / f"{name}.lock"):
            yield waiting
    except Held:
        raise ModelError("busy", f"{name} is being fetched by another process") from None
    except OSError as error:
        where = error.filename or models_directory
        raise ModelError("cannot_write", f"{where}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # not empty: a part that can be gone on with
            waiting.rmdir()


def _bounds(entry: CatalogEntry | None) -> Bounds:
    if entry is None:
        return Bounds(None, _MOST_BYTES)
    return Bounds(entry.size or None, int(entry.download_bytes * _ABOUT))


def _install(
    name: str,
    archive: BinaryIO,
    source: str,
    models_directory: Path,
    on_progress: Progress,
    *,
    repin: bool,
) -> Path:
    """`archive` is hashed and unpacked through one descriptor: who may write beside it cannot put
    another in its place between the two."""
    entry = catalog_entry(name)
    try:
        pinned = read_pin(models_directory, name)
    except msgspec.DecodeError as error:
        raise ModelError("bad_pins", f"the checksums of earlier downloads: {error}") from error
    published = checksum_of(entry) if entry else None
    known = published or (None if repin else pinned)
    where = "the catalogue" if published else str(models_directory / PINS)
    sha256 = _check(archive, known, where, on_progress)
    size = os.fstat(archive.fileno()).st_size
    left = f"{_UNPACKING}{name}-"
    for old in (models_directory / _LOADING).glob(f"{glob.escape(left)}*"):
        shutil.rmtree(old, ignore_errors=True)  # somebody who was killed; the lock is ours
    with tempfile.TemporaryDirectory(prefix=left, dir=models_directory / _LOADING) as temporary:
        made = Path(temporary) / name
        made.mkdir()
        unpack(archive, made, lambda done, total: on_progress("unpack", done, total))
        problem = model_problem(made)
        if problem is not None:
            raise ModelError("model_invalid", f"{name_of(archive)} holds no Vosk model: {problem}")
        sync_tree(made)
        target = models_directory / name
        made.rename(target)
        sync(models_directory)
        if known is None:  # of what is there, and of nothing else
            record_pin(models_directory, name, sha256=sha256, size=size, source=source)
    return target


def _check(archive: BinaryIO, known: Checksum | None, where: str, on_progress: Progress) -> str:
    """The file's SHA-256, once it adds up to what is known of it by `where`."""
    total, done = os.fstat(archive.fileno()).st_size, 0
    digests = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    archive.seek(0)
    while block := archive.read(1 << 20):
        for digest in digests.values():
            digest.update(block)
        done += len(block)
        on_progress("check", done, total)
    if known is not None and digests[known.algorithm].hexdigest() != known.digest:
        raise ModelError(
            "wrong_checksum",
            f"{name_of(archive)} is not what it should be: its {known.algorithm} is "
            f"{digests[known.algorithm].hexdigest()}, and {known.digest} is right by {where}"
            + ("" if where == "the catalogue" else _REPIN),
        )
    return digests["sha256"].hexdigest()
