"""From a name to an installed model: nothing is unpacked before its size and checksum are right,
and nothing is seen in the models directory before it is whole."""

import contextlib
import fcntl
import glob
import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from models.catalog import CatalogEntry, Checksum, catalog_entry, checksum_of
from models.contract import ModelError
from models.durable import sync_files
from models.fetching.download import Bounds, discard, download
from models.fetching.pins import read_pin, record_pin
from models.fetching.unpack import top_directory, unpack
from models.location import layout_problem

Progress = Callable[[str, int, int], None]
"""Told of each phase ("download", "check", "unpack"): bytes done, and bytes in all (0: unknown)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MOST_BYTES = 16 * 10**9
"""Of a download whose size nobody has published."""
_ABOUT = 1.15
"""By how much a size that was published rounded may be off."""
_LOADING = ".fetch"
_UNPACKING = "unpacking-"


async def pull(
    name: str, models_directory: Path, source: str, on_progress: Progress, *, pause_s: float = 0.5
) -> Path:
    """Fetch the model `name` from `source` (a URL; the model is NAME.zip there) and install it.

    Returns its directory. Raises `ModelError`; whatever happened, no half model is left.
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
            return _install(name, file, url, models_directory, on_progress)
        finally:
            discard(file)


def pull_file(archive: Path, models_directory: Path, on_progress: Progress) -> Path:
    """Install the model in a zip file that is here already. Returns its directory.

    Raises `ModelError`.
    """
    try:
        name = top_directory(archive)
    except OSError as error:
        raise ModelError("cannot_read", f"{archive}: {error.strerror}") from error
    if not _NAME.fullmatch(name):
        raise ModelError("bad_name", f"{archive.name} calls its model {name!r}, which is no name")
    with _place_for(name, models_directory):
        return _install(name, archive, str(archive), models_directory, on_progress)


@contextlib.contextmanager
def _place_for(name: str, models_directory: Path) -> Iterator[Path]:
    """Where downloads wait; ours alone for this model."""
    target = models_directory / name
    if target.exists():
        problem = layout_problem(target)
        if problem is None:
            raise ModelError("already_there", f"{name} is installed already: {target}")
        raise ModelError(
            "model_invalid", f"{target} is there and is no Vosk model ({problem}): remove it first"
        )
    waiting = models_directory / _LOADING
    try:
        waiting.mkdir(parents=True, exist_ok=True)
        with (waiting / f"{name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ModelError("busy", f"{name} is being fetched by somebody else") from None
            try:
                yield waiting
            finally:
                Path(lock.name).unlink(missing_ok=True)
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
    name: str, archive: Path, source: str, models_directory: Path, on_progress: Progress
) -> Path:
    entry = catalog_entry(name)
    try:
        pinned = read_pin(models_directory, name)
    except msgspec.DecodeError as error:
        raise ModelError("bad_pins", f"the checksums of earlier downloads: {error}") from error
    known = (checksum_of(entry) if entry else None) or pinned
    sha256 = _check(archive, known, on_progress)
    size = archive.stat().st_size
    left = f"{_UNPACKING}{name}-"
    for old in (models_directory / _LOADING).glob(f"{glob.escape(left)}*"):
        shutil.rmtree(old, ignore_errors=True)  # somebody who was killed; the lock is ours
    with tempfile.TemporaryDirectory(prefix=left, dir=models_directory / _LOADING) as temporary:
        made = Path(temporary) / name
        made.mkdir()
        unpack(archive, made, lambda done, total: on_progress("unpack", done, total))
        problem = layout_problem(made)
        if problem is not None:
            raise ModelError("model_invalid", f"{archive.name} holds no Vosk model: {problem}")
        sync_files(made)
        if known is None:
            record_pin(models_directory, name, sha256=sha256, size=size, source=source)
        target = models_directory / name
        made.rename(target)
    return target


def _check(archive: Path, known: Checksum | None, on_progress: Progress) -> str:
    """The file's SHA-256, once it adds up to what is known of it."""
    total, done = archive.stat().st_size, 0
    digests = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with archive.open("rb") as reader:
        while block := reader.read(1 << 20):
            for digest in digests.values():
                digest.update(block)
            done += len(block)
            on_progress("check", done, total)
    if known is not None and digests[known.algorithm].hexdigest() != known.digest:
        raise ModelError(
            "wrong_checksum",
            f"{archive.name} is not what it should be: its {known.algorithm} is "
            f"{digests[known.algorithm].hexdigest()}, and {known.digest} is right",
        )
    return digests["sha256"].hexdigest()
