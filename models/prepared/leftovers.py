"""Leftovers in a store of prepared models: directories that serve no model any more."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from models.leftovers import Leftover, bytes_of, remove_leftover
from models.prepared.attempts import FAILED_PREFIX
from models.prepared.maker import Maker, family_of
from models.prepared.manifest import FORMAT, MANIFEST, read_manifest
from models.prepared.store import LOCK_PREFIX, PARTIAL_PREFIX, PreparedModel, original_problem

_KEY_CHARACTERS = 16


class _AnyManifest(msgspec.Struct):
    """Fields that every version has written."""

    name: str
    key: str = ""
    maker: str = ""
    format: int = 0


def find_leftovers(store: Path, maker: Maker) -> list[Leftover]:
    """Return leftovers of killed runs, of other versions of `maker`, and of models that were
    replaced or removed. Raises `OSError`."""
    if not store.is_dir():
        return []
    found = [_partial(path) for path in _named(store, PARTIAL_PREFIX)]
    for directory in sorted(store.iterdir()):
        if not directory.name.startswith(".") and (directory / MANIFEST).is_file():
            found += _not_needed(directory, maker)
    for note in _named(store, FAILED_PREFIX):
        key = note.stem.removeprefix(FAILED_PREFIX)
        why = "remembers that a preparation failed"
        found.append(Leftover(note, why, bytes_of(note), store / f"{LOCK_PREFIX}{key}", False))
    return found


def remove_partials(store: Path, *, ours: str, others: bool = True) -> None:
    """Remove leftovers of processes that were killed while they made or removed prepared models.
    `ours`: the key whose lock this process holds; `others`: also those of all other keys. Raises
    `OSError`."""
    for path in _named(store, PARTIAL_PREFIX):
        if _key_in(path) == ours:
            shutil.rmtree(path)
        elif others:
            with contextlib.suppress(OSError):  # another user's, in a store that is shared
                remove_leftover(_partial(path))


def _partial(path: Path) -> Leftover:
    lock = path.with_name(f"{LOCK_PREFIX}{_key_in(path)}")
    return Leftover(path, "left by a process that was killed", bytes_of(path), lock, True)


def _key_in(partial: Path) -> str:
    """Return the key in a name: it comes first, or last behind a model's name."""
    rest = partial.name.removeprefix(PARTIAL_PREFIX)
    if rest.startswith("removed-"):
        return rest[-_KEY_CHARACTERS:]
    return rest[:_KEY_CHARACTERS]


def _not_needed(directory: Path, maker: Maker) -> Iterator[Leftover]:
    """Yield the prepared model in a directory if `maker`, or another version of it, has made it,
    and no original for it is there."""
    try:
        label = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=_AnyManifest)
    except (OSError, msgspec.DecodeError):
        return  # made by another program
    if family_of(label.maker) not in (family_of(maker.version), ""):
        return
    key = directory.name[-_KEY_CHARACTERS:]
    lock = directory.with_name(f"{LOCK_PREFIX}{label.key[:_KEY_CHARACTERS].strip('/.') or key}")
    manifest = read_manifest(directory)
    if manifest is None or (manifest.maker, manifest.format) != (maker.version, FORMAT):
        why = f"made by {label.maker[:40]!r}, which is not this version ({maker.version})"
        yield Leftover(directory, why, bytes_of(directory), lock, False)
        return
    original = Path(manifest.original)
    if not original.is_dir():
        why = f"its original is not there any more: {original}"
        yield Leftover(directory, why, bytes_of(directory), lock, False)
    elif (problem := original_problem(PreparedModel(directory, manifest), original)) is not None:
        yield Leftover(directory, problem, bytes_of(directory), lock, True)


def _named(store: Path, prefix: str) -> list[Path]:
    if not store.is_dir():
        return []
    return sorted(path for path in store.iterdir() if path.name.startswith(prefix))
