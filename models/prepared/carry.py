"""Export of a prepared model to one file, and its import on another machine, which checks it.

The file is a tar archive, not compressed (a graph hardly shrinks), of the manifest and the files
that were made. The import makes new links, to the original on that machine.
"""

import hashlib
import shutil
import tarfile
from pathlib import Path

import msgspec
import msgspec.structs

from models.contract import ModelError, ModelLocation
from models.durable import free_for_us, place_tree
from models.prepared.leftovers import remove_partials
from models.prepared.maker import Maker
from models.prepared.manifest import (
    FORMAT,
    MANIFEST,
    FileStamp,
    Manifest,
    directory_name,
    write_manifest,
)
from models.prepared.prepare import locked
from models.prepared.store import PARTIAL_PREFIX, PreparedModel, verify

_MAX_MANIFEST_BYTES = 1 << 20


def export_prepared(prepared: PreparedModel, file: Path, maker: Maker) -> None:
    """Write a prepared model to one file. Raises `ModelError` if the model is damaged."""
    problems = verify(prepared, maker)
    if problems:
        raise ModelError("damaged", f"{prepared.directory}: {'; '.join(problems)}")
    partial = file.with_name(f"{file.name}.partial")
    try:
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
            for name in (MANIFEST, *sorted(prepared.manifest.made)):
                archive.add(prepared.directory / name, name)
        partial.rename(file)
    except OSError as error:
        raise ModelError("cannot_write", f"{error.filename or file}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def import_prepared(
    file: Path, location: ModelLocation, store: Path, maker: Maker, *, available_memory: int = 0
) -> PreparedModel:
    """Install the files that `maker` has made on another machine, for the original at `location`.

    Every name, size and checksum in the file is checked, and so is the original; the checksums come
    with it, so `Maker.check_import` checks the content, too, as far as `available_memory` (bytes)
    allows. Raises `ModelError`.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        with tarfile.open(file, "r:") as archive:
            manifest = _read_manifest(archive, maker)
            sources = _must_fit(manifest, location, maker)
            manifest = msgspec.structs.replace(manifest, sources=sources)
            with locked(store, manifest.key, location.name):
                remove_partials(store, ours=manifest.key)
                free = free_for_us(store)
                size = sum(stamp.size for stamp in manifest.made.values())
                if size > free:
                    raise _bad(f"it needs {size} bytes in {store}, {free} may be used")
                partial = store / f"{PARTIAL_PREFIX}{manifest.key}-import"
                try:
                    made = _unpack(archive, manifest, location, partial, maker)
                    _must_be_right(maker, location, partial, store, available_memory)
                    target = store / directory_name(manifest.name, manifest.key)
                    place_tree(partial, target)
                    return PreparedModel(target, made)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    except tarfile.TarError as error:
        raise _bad(
            f"{file.name} is not what `modelserver models export` writes ({error})"
        ) from error
    except OSError as error:
        raise ModelError("cannot_write", f"{error.filename or file}: {error.strerror}") from error


def _unpack(
    archive: tarfile.TarFile,
    manifest: Manifest,
    location: ModelLocation,
    partial: Path,
    maker: Maker,
) -> Manifest:
    made: dict[str, FileStamp] = {}
    for name, stamp in manifest.made.items():
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_checked(archive, name, stamp, target)
        made[name] = FileStamp(stamp.size, target.stat().st_mtime_ns, stamp.sha256)
    manifest = msgspec.structs.replace(manifest, made=made, original=str(location.directory))
    maker.link(location.directory, partial, frozenset(made))
    write_manifest(partial, manifest)
    if (problem := maker.damage(partial)) is not None:
        raise _bad(problem)
    return manifest


def _must_be_right(
    maker: Maker, location: ModelLocation, partial: Path, store: Path, available_memory: int
) -> None:
    try:
        maker.check_import(location, partial, store, available_memory)
    except ModelError as error:
        raise _bad(error.message) from error


def _read_manifest(archive: tarfile.TarFile, maker: Maker) -> Manifest:
    member = archive.next()
    if member is None or member.name != MANIFEST or not member.isreg():
        raise _bad("it does not begin with a manifest")
    if member.size > _MAX_MANIFEST_BYTES:
        raise _bad("its manifest is too large")
    reader = archive.extractfile(member)
    assert reader is not None
    try:
        manifest = msgspec.json.decode(reader.read(), type=Manifest)
    except msgspec.DecodeError as error:
        raise _bad(f"its manifest cannot be read: {error}") from error
    if manifest.format != FORMAT:
        raise _bad(f"its format is {manifest.format}; {FORMAT} is known here")
    if (problem := manifest.problem()) is not None:
        raise _bad(problem)
    if manifest.maker != maker.version:
        raise _bad(f"it was made by {manifest.maker[:200]!r}, this is {maker.version!r}")
    if not maker.knows(manifest):
        raise _bad("it names files that no prepared model has")
    return manifest


def _must_fit(manifest: Manifest, location: ModelLocation, maker: Maker) -> dict[str, FileStamp]:
    """Return the original's files as they are on this machine. Raises `ModelError` if they
    differ."""
    if manifest.name != location.name:
        raise ModelError(
            "other_original", f"the file was made from {manifest.name}, this is {location.name}"
        )
    here = maker.stamp_sources(location.directory)
    for name in manifest.sources.keys() | here.keys():
        ours, theirs = here.get(name), manifest.sources.get(name)
        if ours is None or theirs is None or ours.sha256 != theirs.sha256:
            raise ModelError(
                "other_original",
                f"the file was made from another {manifest.name}: {name} differs from the one in "
                f"{location.directory}",
            )
    return here


def _copy_checked(archive: tarfile.TarFile, name: str, stamp: FileStamp, target: Path) -> None:
    try:
        member = archive.getmember(name)
    except KeyError:
        raise _bad(f"{name} is missing in it") from None
    if not member.isreg() or member.size != stamp.size:
        raise _bad(f"{name} has another size than its manifest says")
    reader = archive.extractfile(member)
    assert reader is not None
    digest = hashlib.sha256()
    with reader, target.open("wb") as writer:
        while block := reader.read(1 << 20):
            digest.update(block)
            writer.write(block)
    if digest.hexdigest() != stamp.sha256:
        raise _bad(f"{name} is damaged: its checksum is not what its manifest says")


def _bad(why: str) -> ModelError:
    return ModelError("bad_archive", f"the file cannot be imported: {why}")
