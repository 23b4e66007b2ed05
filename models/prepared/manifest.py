"""Manifest of a prepared model: its sources, its maker, and the files that were made."""

import hashlib
import os
import re
from pathlib import Path

import msgspec

MANIFEST = "prepared.json"

FORMAT = 1


class FileStamp(msgspec.Struct, frozen=True):
    """Stamp of a file: its checksum, and cheap evidence that it has not changed since."""

    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, file: Path) -> "FileStamp":
        """Read the whole file. Raises `OSError`."""
        status = file.stat()
        with file.open("rb") as reader:
            digest = hashlib.file_digest(reader, "sha256").hexdigest()
        return cls(status.st_size, status.st_mtime_ns, digest)

    def same_size(self, file: Path) -> bool:
        """Return whether the file has the same size. Raises `OSError`."""
        return file.stat().st_size == self.size

    def unchanged(self, file: Path) -> bool:
        """Return whether the file is the same: by size and time, or else by checksum. Raises
        `OSError`."""
        status = file.stat()
        if status.st_size != self.size:
            return False
        return status.st_mtime_ns == self.mtime_ns or FileStamp.of(file).sha256 == self.sha256


_LONGEST_NAME = 255
_LONGEST_LABEL_BYTES = 120
_NOT_IN_A_LABEL = re.compile(r"[^\w.+-]")


class Manifest(msgspec.Struct, frozen=True):
    """Content of `prepared.json`. File names are inside the model, sizes in bytes, times in
    seconds."""

    name: str
    language: str
    key: str
    original: str
    sources: dict[str, FileStamp]
    """Files that it was made from."""
    made: dict[str, FileStamp]
    """Files that were made."""
    seconds: float
    peak_bytes: int
    created: str
    maker: str
    """Version of everything that decides the result (`Maker.version`)."""
    counts: dict[str, int] = {}
    """Figures of the result, for people, such as `states` of a graph."""
    format: int = FORMAT

    def problem(self) -> str | None:
        """Return why the manifest is invalid, such as names that lead out of the directory; None if
        it is valid."""
        name = self.name
        if not 0 < len(name) <= _LONGEST_NAME or "/" in name or not name.isprintable():
            return f"{name[:40]!r} is not a valid name"
        if self.key != key_of(self.sources, self.maker):
            return "its key is not that of what it was made from"
        if not self.sources or not all(map(_is_inside, (*self.sources, *self.made))):
            return "it names files that no prepared model has"
        return None


def _is_inside(name: str) -> bool:
    """Return whether the name leads to a file below the directory in which it is looked up."""
    parts = name.split("/")
    return name.isprintable() and MANIFEST not in parts and not {"", ".", ".."} & set(parts)


def key_of(sources: dict[str, FileStamp], maker: str) -> str:
    """Return the key of the files that a maker of this version makes from these sources."""
    digest = hashlib.sha256(maker.encode())
    for name in sorted(sources):
        digest.update(f"\n{name} {sources[name].sha256}".encode())
    return digest.hexdigest()[:16]


def directory_name(name: str, key: str) -> str:
    """Return the name of a prepared model's directory: the model's name, for people, as far as it
    suits a file system and a shell, and the key."""
    label = _NOT_IN_A_LABEL.sub("_", name).lstrip(".").encode()[:_LONGEST_LABEL_BYTES]
    return f"{label.decode(errors='ignore') or 'model'}-{key}"


def read_manifest(directory: Path) -> Manifest | None:
    """Return the manifest in the directory; None if there is none that is readable."""
    try:
        data = (directory / MANIFEST).read_bytes()
        manifest = msgspec.json.decode(data, type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None
    if manifest.format != FORMAT or manifest.problem() is not None:
        return None
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write it in one step, formatted for people. Raises `OSError`."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    partial = directory / f".{MANIFEST}-{os.getpid()}"
    try:
        partial.write_bytes(data)
        partial.rename(directory / MANIFEST)
    finally:
        partial.unlink(missing_ok=True)
