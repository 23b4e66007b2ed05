"""Store of prepared models: finds one for an original, lists, verifies and removes them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from models.contract import ModelLocation
from models.durable import remove_tree
from models.prepared.maker import Maker
from models.prepared.manifest import FileStamp, Manifest, read_manifest, write_manifest

PARTIAL_PREFIX = ".partial-"
"""Beginning of the name of a directory that is being made or removed, or was left by a process that
was killed. The key of its sources follows."""

LOCK_PREFIX = ".lock-"


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """Prepared model on disk."""

    directory: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """Name of the model that it was made from."""
        return self.manifest.name

    @property
    def seconds(self) -> float:
        """Duration of making it."""
        return self.manifest.seconds

    @property
    def peak_bytes(self) -> int:
        """Memory that making it took at the most."""
        return self.manifest.peak_bytes

    @property
    def made(self) -> dict[str, Path]:
        """Files that were made: name inside the model, to file."""
        return {name: self.directory / name for name in self.manifest.made}

    @property
    def summary(self) -> str:
        """Figures of the result, in words."""
        return ", ".join(f"{count} {name}" for name, count in self.manifest.counts.items())

    @property
    def bytes_on_disk(self) -> int:
        """Size of the files that were made."""
        return sum(stamp.size for stamp in self.manifest.made.values())


@dataclass(frozen=True, slots=True)
class Lookup:
    """Prepared model that was found for an original, and why others were not used."""

    prepared: PreparedModel | None
    problems: tuple[str, ...] = ()


def find_prepared(location: ModelLocation, store: Path, maker: Maker) -> Lookup:
    """Return the prepared model that `maker` has made of the present files at `location`, if it is
    complete.

    Cheap if nothing has changed; a file with another time than recorded is read and compared.
    """
    manifest = read_manifest(location.directory)
    if manifest is not None:  # the model asked for is a prepared one itself
        candidates = [PreparedModel(location.directory, manifest)]
    else:
        candidates = [p for p in prepared_models(store) if _same_sizes(p.manifest, location)]
    problems: list[str] = []
    for candidate in candidates:
        problem = _made_by_another(candidate, maker) or _sources_problem(candidate, location)
        problem = problem or _made_problem(candidate, maker)
        if problem is None:
            if candidate.directory != location.directory:
                _remember_times(candidate, location)
            return Lookup(candidate, tuple(problems))
        problems.append(f"{candidate.directory} is not used: {problem}")
    return Lookup(None, tuple(problems))


def prepared_models(store: Path) -> Iterator[PreparedModel]:
    """Yield every prepared model in the store, complete or not."""
    if not store.is_dir():
        return
    for directory in sorted(store.iterdir()):
        if directory.name.startswith("."):
            continue
        manifest = read_manifest(directory)
        if manifest is not None:
            yield PreparedModel(directory, manifest)


def verify(prepared: PreparedModel, maker: Maker) -> list[str]:
    """Read all files that were made and compare checksums. Return what is wrong, in words."""
    problems: list[str] = []
    for name, stamp in prepared.manifest.made.items():
        file = prepared.directory / name
        try:
            actual = type(stamp).of(file)
        except OSError as error:
            problems.append(f"{name} cannot be read: {error.strerror}")
            continue
        if (actual.size, actual.sha256) != (stamp.size, stamp.sha256):
            problems.append(f"{name} is damaged: its checksum is not what it was when it was made")
    structure = maker.damage(prepared.directory)
    if structure is not None:
        problems.append(structure)
    return problems


def changed_size(prepared: PreparedModel) -> str | None:
    """Return a made file whose size has changed, in words; None if none has. Cheap."""
    made = prepared.manifest.made
    what = "{} is damaged: its size is not what it was when it was made"
    return _first_change(made, prepared.directory, "{}", what, FileStamp.same_size)


def remove(directory: Path) -> None:
    """Delete a prepared model. Processes that serve it keep their mapping of it. Raises
    `OSError`."""
    remove_tree(directory, directory.with_name(f"{PARTIAL_PREFIX}removed-{directory.name}"))


def _same_sizes(manifest: Manifest, location: ModelLocation) -> bool:
    try:
        return all(
            (location.directory / name).stat().st_size == stamp.size
            for name, stamp in manifest.sources.items()
        )
    except OSError:
        return manifest.name == location.name


def _made_by_another(prepared: PreparedModel, maker: Maker) -> str | None:
    if prepared.manifest.maker != maker.version:
        return f"it was made by {prepared.manifest.maker}, this is {maker.version}"
    return None if maker.knows(prepared.manifest) else "it names files that are not made here"


def original_problem(prepared: PreparedModel, original: Path) -> str | None:
    """Return which file of the model in the directory `original` has changed since `prepared` was
    made from it, in words; None if none has."""
    what = "{} has changed since it was made"
    return _first_change(prepared.manifest.sources, original, "{} of the original", what)


def _sources_problem(prepared: PreparedModel, location: ModelLocation) -> str | None:
    if prepared.directory == location.directory:
        return None
    return original_problem(prepared, location.directory)


def _made_problem(prepared: PreparedModel, maker: Maker) -> str | None:
    change = _first_change(prepared.manifest.made, prepared.directory, "{}", "{} is damaged")
    return change or maker.damage(prepared.directory)


def _remember_times(prepared: PreparedModel, location: ModelLocation) -> None:
    """Record the new times or places of the manifest's files, so that they are not read again at
    the next lookup. Without the right to write, they are."""
    manifest = prepared.manifest
    with contextlib.suppress(OSError):
        sources = _with_times(manifest.sources, location.directory)
        made = _with_times(manifest.made, prepared.directory)
        if (sources, made) != (manifest.sources, manifest.made):
            original = str(location.directory)
            changed = msgspec.structs.replace(
                manifest, sources=sources, made=made, original=original
            )
            write_manifest(prepared.directory, changed)


def _with_times(stamps: Mapping[str, FileStamp], directory: Path) -> dict[str, FileStamp]:
    return {
        name: msgspec.structs.replace(stamp, mtime_ns=(directory / name).stat().st_mtime_ns)
        for name, stamp in stamps.items()
    }


def _first_change(
    stamps: Mapping[str, FileStamp],
    directory: Path,
    whose: str,
    what: str,
    same: Callable[[FileStamp, Path], bool] = FileStamp.unchanged,
) -> str | None:
    """Return the first file that is not the `same` any more, in the words of `what` about the file
    in the words of `whose`; None if all are."""
    for name, stamp in stamps.items():
        try:
            if not same(stamp, directory / name):
                return what.format(whose.format(name))
        except OSError as error:
            return f"{whose.format(name)} cannot be read: {error.strerror}"
    return None
