"""Installation of a model by name. Nothing is unpacked before its size and checksum are right, and
nothing appears in the models directory before it is complete."""

import contextlib
import glob
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from models.catalog import CatalogEntry, Checksum, catalog_entry, checksum_of
from models.contract import ModelError
from models.durable import remove_tree, sync, sync_tree
from models.engines import content_problem
from models.fetching.download import discard
from models.fetching.pins import PINS, read_pin, record_pin
from models.fetching.sources import Source, sources_of
from models.fetching.unpack import name_of, top_directory, unpack
from models.fetching.waiting import UNPACKING, WAITING, Progress, Waiting
from models.locks import Held, hold

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_REPIN = (
    "; its first download was recorded there: if its publisher has replaced it, accept the new one "
    "with `modelserver models pull --repin`"
)
_OF_THIS_MACHINE = frozenset({"no_space", "cannot_write", "bad_pins"})
"""Codes of failures that another source would not change."""


async def pull(
    name: str,
    models_directory: Path,
    sources: Sequence[str],
    on_progress: Progress,
    *,
    pause_s: float = 0.5,
    repin: bool = False,
) -> Path:
    """Fetch the model `name` from the first of `sources` that has it, and install it; return its
    directory.

    `sources`: addresses as `models.fetching.sources` takes them; empty: those of its engine.
    `repin`: accept another checksum than that of an earlier download. Raises `ModelError`; no
    incomplete model is left in any case. Hashing and unpacking block: a server runs this in a
    process of its own.
    """
    if not _NAME.fullmatch(name):
        raise ModelError("bad_name", f"{name!r} is not the name of a model")
    entry = catalog_entry(name)
    found, problems = sources_of(name, entry, sources)
    # Report a missing entry of the catalogue only for addresses that the user has set.
    failures = problems if sources or not found else []
    with _place_for(name, models_directory) as directory:
        waiting = Waiting(name, entry, directory, on_progress, pause_s)
        for source in found:
            last = source is found[-1]
            try:
                if source.archive:
                    file = await waiting.archive(source, first=source is found[0], last=last)
                    installed = _install_downloaded(
                        name, file, source, models_directory, on_progress, repin=repin
                    )
                else:
                    folder = await waiting.files(source, last=last)
                    installed = _install_files(
                        name, folder, source, models_directory, on_progress, repin=repin
                    )
            except ModelError as error:
                if error.code in _OF_THIS_MACHINE:
                    raise
                failures.append(error)
            else:
                waiting.clear_away()
                return installed
    raise _nowhere(name, failures)


def _nowhere(name: str, failures: list[ModelError]) -> ModelError:
    """Combine the errors of all sources into one."""
    if len(failures) == 1:
        return failures[0]
    kept = any(failure.code == "download_broken" for failure in failures)
    return ModelError(
        "download_broken" if kept else "download_failed",
        "\n".join(
            (f"{name} cannot be downloaded:", *(f"- {failure.message}" for failure in failures))
        ),
    )


def pull_file(
    archive: Path, models_directory: Path, on_progress: Progress, *, repin: bool = False
) -> Path:
    """Install the model from a local archive; return its directory.

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
        raise ModelError(
            "bad_name", f"{archive.name} calls its model {name!r}, which is not a valid name"
        )
    with _place_for(name, models_directory):
        source = str(archive)
        return _install(name, opened, source, models_directory, on_progress, repin=repin)


def remove(name: str, models_directory: Path) -> Path:
    """Delete an installed model; return its former directory. Raises `ModelError`."""
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


def _directories(models_directory: Path) -> list[Path]:
    if not models_directory.is_dir():
        return []
    return [d for d in models_directory.iterdir() if d.is_dir() and d.name[0] != "."]


@contextlib.contextmanager
def _place_for(name: str, models_directory: Path) -> Iterator[Path]:
    """Hold the lock of this model; give the directory in which its downloads wait."""
    target = models_directory / name
    if target.exists():
        problem = content_problem(target)
        if problem is None:
            raise ModelError("already_there", f"{name} is installed already: {target}")
        raise ModelError(
            "model_invalid", f"{target} exists and is not a model ({problem}): remove it first"
        )
    waiting = models_directory / WAITING
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
        with contextlib.suppress(OSError):  # not empty: a part that can be resumed
            waiting.rmdir()


def _install_downloaded(
    name: str,
    file: Path,
    source: Source,
    models_directory: Path,
    on_progress: Progress,
    *,
    repin: bool,
) -> Path:
    try:
        with file.open("rb") as opened:
            url = source.archive
            return _install(name, opened, url, models_directory, on_progress, repin=repin)
    finally:
        discard(file)


def _install(
    name: str,
    archive: BinaryIO,
    source: str,
    models_directory: Path,
    on_progress: Progress,
    *,
    repin: bool,
) -> Path:
    """Install from an open archive. It is hashed and unpacked through one descriptor: a process
    that may write beside it cannot put another archive in its place between the two."""
    pins = _Pins(models_directory, name, repin)
    known, where = pins.known(catalog_entry(name))
    sha256 = _check(archive, known, where, on_progress)
    size = os.fstat(archive.fileno()).st_size
    with _unpacking(name, models_directory) as made:
        unpack(archive, made, lambda done, total: on_progress("unpack", done, total))
        problem = content_problem(made)
        if problem is not None:
            raise ModelError("model_invalid", f"{name_of(archive)} holds no model: {problem}")
        target = _put_in_place(made, models_directory)
        if known is None:  # only of a model that is in place
            record_pin(models_directory, name, sha256=sha256, size=size, source=source)
    return target


def _install_files(
    name: str,
    folder: Path,
    source: Source,
    models_directory: Path,
    on_progress: Progress,
    *,
    repin: bool,
) -> Path:
    """Install the model whose files are all in `folder`. Each has a pin of its own."""
    pinned = []
    try:
        with _unpacking(name, models_directory) as made:
            for path, url in source.files:
                pins = _Pins(models_directory, f"{name}/{path}", repin)
                known, where = pins.known(None)
                with (folder / path).open("rb") as opened:
                    sha256 = _check(opened, known, where, on_progress)
                    size = os.fstat(opened.fileno()).st_size
                if known is None:
                    pinned.append((pins.name, sha256, size, url))
                (made / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).rename(made / path)
            problem = content_problem(made)
            if problem is not None:
                raise ModelError("model_invalid", f"{source.address} has no model: {problem}")
            target = _put_in_place(made, models_directory)
            for key, sha256, size, url in pinned:
                record_pin(models_directory, key, sha256=sha256, size=size, source=url)
        return target
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Pins:
    """Checksum that a file must have. `name`: of the model, with the file's path if it is one of
    several; `repin`: an earlier download does not count."""

    models_directory: Path
    name: str
    repin: bool

    def known(self, entry: CatalogEntry | None) -> tuple[Checksum | None, str]:
        """Return the checksum, and its source. Raises `ModelError`."""
        try:
            pinned = read_pin(self.models_directory, self.name)
        except msgspec.DecodeError as error:
            raise ModelError("bad_pins", f"the checksums of earlier downloads: {error}") from error
        if entry and (published := checksum_of(entry)):
            return published, "the catalogue"
        return None if self.repin else pinned, str(self.models_directory / PINS)


@contextlib.contextmanager
def _unpacking(name: str, models_directory: Path) -> Iterator[Path]:
    """Give a new directory to make the model in; it is deleted unless it was moved into place."""
    left = f"{UNPACKING}{name}-"
    for old in (models_directory / WAITING).glob(f"{glob.escape(left)}*"):
        shutil.rmtree(old, ignore_errors=True)  # of a process that was killed; the lock is ours
    with tempfile.TemporaryDirectory(prefix=left, dir=models_directory / WAITING) as temporary:
        made = Path(temporary) / name
        made.mkdir()
        yield made


def _put_in_place(made: Path, models_directory: Path) -> Path:
    sync_tree(made)
    target = models_directory / made.name
    made.rename(target)
    sync(models_directory)
    return target


def _check(archive: BinaryIO, known: Checksum | None, where: str, on_progress: Progress) -> str:
    """Return the file's SHA-256, after comparing the checksum that `where` records. Raises
    `ModelError` if it differs."""
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
            f"{name_of(archive)} has a wrong checksum: its {known.algorithm} is "
            f"{digests[known.algorithm].hexdigest()}, but {where} has {known.digest}"
            + ("" if where == "the catalogue" else _REPIN),
        )
    return digests["sha256"].hexdigest()
