"""The catalogue: what the publisher offers, and what of it was measured or published."""

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

CATALOG = Path(__file__).parent / "catalog.toml"

_UNPACKED = {"small": 3.0, "big": 1.6}
"""Times the download: the Korean small model and the big Chinese one."""
_MEMORY_SMALL, _MEMORY_BIG = 2.0, 1.1
"""Times what is unpacked: a small model composes its graph in memory, a big one copies its own."""


class CatalogEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model of the publisher's. Sizes in bytes; 0, "" or None: not known."""

    name: str
    language: str
    type: Literal["small", "big"]
    size: int = 0
    about: int = 0
    unpacked: int = 0
    memory: int = 0
    sha256: str = ""
    md5: str = ""
    licence: str = ""
    error_rate: float | None = None
    error_rate_on: str = ""

    @property
    def download_bytes(self) -> int:
        """Exact where `size` is known, else about."""
        return self.size or self.about

    @property
    def unpacked_bytes(self) -> int:
        """On disk; estimated where it is not known."""
        return self.unpacked or int(self.download_bytes * _UNPACKED[self.type])

    @property
    def memory_bytes(self) -> int:
        """Of a fork server that serves it unprepared; estimated where it was not measured."""
        factor = _MEMORY_SMALL if self.type == "small" else _MEMORY_BIG
        return self.memory or int(self.unpacked_bytes * factor)


class _File(msgspec.Struct, frozen=True):
    model: list[CatalogEntry]


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a file must add up to."""

    algorithm: str
    digest: str


def checksum_of(entry: CatalogEntry) -> Checksum | None:
    """The strongest that is known."""
    if entry.sha256:
        return Checksum("sha256", entry.sha256)
    return Checksum("md5", entry.md5) if entry.md5 else None


@functools.cache
def catalog() -> tuple[CatalogEntry, ...]:
    """All of it, in the order of the file."""
    document = tomllib.loads(CATALOG.read_text(encoding="utf-8"))
    return tuple(msgspec.convert(document, _File).model)


def catalog_entry(name: str) -> CatalogEntry | None:
    """The model of that name, if the catalogue knows it."""
    return next((entry for entry in catalog() if entry.name == name), None)
