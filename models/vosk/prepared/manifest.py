"""What a prepared model says of itself: what it was made from, by what, and what was made."""

import hashlib
import os
import re
from pathlib import Path

import msgspec

from models.vosk.layout import FEATURES, GRAPH_SOURCES, STATIC, WORDS

MANIFEST = "prepared.json"

MAKER = "compile-graph 1"
"""Version of everything that decides what is made; another makes other models."""

FORMAT = 1


class FileStamp(msgspec.Struct, frozen=True):
    """A file as it was: checksum, and what tells cheaply that it has not changed since."""

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
        """The file is as long as it was. Raises `OSError`."""
        return file.stat().st_size == self.size

    def unchanged(self, file: Path) -> bool:
        """The file is the same: by size and time, or else by checksum. Raises `OSError`."""
        status = file.stat()
        if status.st_size != self.size:
            return False
        return status.st_mtime_ns == self.mtime_ns or FileStamp.of(file).sha256 == self.sha256


_LONGEST_NAME = 255
_LONGEST_LABEL_BYTES = 120
_NOT_IN_A_LABEL = re.compile(r"[^\w.+-]")
_FOLDERS = ("", "graph/", "conf/")
_MADE = frozenset(f + n for f in _FOLDERS for n in (STATIC, WORDS, FEATURES))
_SOURCES = frozenset(f + n for f in _FOLDERS for n in (*GRAPH_SOURCES, FEATURES))


class Manifest(msgspec.Struct, frozen=True):
    """`prepared.json`. File names are inside the model, sizes in bytes, times in seconds."""

    name: str
    language: str
    key: str
    original: str
    sources: dict[str, FileStamp]
    """What it was made from."""
    made: dict[str, FileStamp]
    """What was made new."""
    states: int
    arcs: int
    seconds: float
    peak_bytes: int
    created: str
    maker: str = MAKER
    format: int = FORMAT

    def problem(self) -> str | None:
        """Why it is to be believed in nothing, whoever wrote it: its names lead elsewhere, or are
        not those that are made here; None if there is no reason."""
        name = self.name
        if not 0 < len(name) <= _LONGEST_NAME or "/" in name or not name.isprintable():
            return f"{name[:40]!r} is no name"
        if self.key != key_of(self.sources, self.maker):
            return "its key is not that of what it was made from"
        if not self.sources or not self.sources.keys() <= _SOURCES or not self.made.keys() <= _MADE:
            return "it names files that no prepared model has"
        return None


def key_of(sources: dict[str, FileStamp], maker: str = MAKER) -> str:
    """The name of what `maker` makes from these sources."""
    digest = hashlib.sha256(maker.encode())
    for name in sorted(sources):
        digest.update(f"\n{name} {sources[name].sha256}".encode())
    return digest.hexdigest()[:16]


def directory_name(name: str, key: str) -> str:
    """What the directory of a prepared model is called: the model's name as far as it suits a file
    system and a shell, which is for people, and the key."""
    label = _NOT_IN_A_LABEL.sub("_", name).lstrip(".").encode()[:_LONGEST_LABEL_BYTES]
    return f"{label.decode(errors='ignore') or 'model'}-{key}"


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest in the directory; None if there is none that can be read."""
    try:
        data = (directory / MANIFEST).read_bytes()
        manifest = msgspec.json.decode(data, type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None
    if manifest.format != FORMAT or manifest.problem() is not None:
        return None
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write it in one step, readable for people. Raises `OSError`."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    partial = directory / f".{MANIFEST}-{os.getpid()}"
    try:
        partial.write_bytes(data)
        partial.rename(directory / MANIFEST)
    finally:
        partial.unlink(missing_ok=True)
