"""The catalogue of models that publishers offer, with measured and published figures."""

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from models.language import language_of, same_language

CATALOG = Path(__file__).parent / "catalog.toml"

_UNPACKED = {"small": 3.0, "big": 1.6, "": 1.3}
"""Factors from the size of a download to its unpacked size: the Korean small model and the big
Chinese one; Whisper base, with int8 weights."""
_MEMORY_SMALL, _MEMORY_BIG = 2.0, 1.1
"""Factors from the unpacked size to memory: a small model composes its graph in memory, a big one
copies its own."""
_MEMORY_ONNX, _ONNX_RUNTIME = 1.2, 60_000_000
"""Factor from the files that are loaded to memory, and bytes of everything else. Measured, after a
decode: Whisper base 220 MB from 133, a network of SenseVoice's shape with int8 weights 89 MB from
53."""
_GROWTH = {"vosk": 32 << 20, "onnx": 60_000_000}
"""Growth of a worker in bytes, if it was not measured."""

VOSK_LIST = "https://alphacephei.com/vosk/models"


class ErrorRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A published error rate: words (Chinese, Japanese and Korean: characters) wrong in 100.

    `on`: the set of recordings. `source`: an address. Only rates of one source on one set compare.
    """

    language: str
    rate: float
    on: str
    source: str


class CatalogEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Model that can be downloaded. Sizes in bytes; 0, "" or None: not known.

    `purpose`: what it does; only speech models are listed by `catalog`. `alias`: shorter name.
    `type`: of a Vosk model. `languages`: BCP 47 tags, where its name does not say. `about`: size of
    the download, published rounded. `loaded`: size of the files of it that are read into memory.
    `speed`: seconds of one processor for a second of speech. `files` and `repository`: for servers
    that have it file by file. `recommended`: languages that it is the first choice for among
    models that no published figures compare.
    """

    name: str
    language: str
    purpose: Literal["speech", "punctuation"] = "speech"
    alias: str = ""
    type: Literal["small", "big", ""] = ""
    engine: Literal["vosk", "onnx"] = "vosk"
    languages: tuple[str, ...] = ()
    size: int = 0
    about: int = 0
    unpacked: int = 0
    loaded: int = 0
    memory: int = 0
    growth: int = 0
    sha256: str = ""
    md5: str = ""
    licence: str = ""
    streaming: bool = True
    error_rate: float | None = None
    error_rate_on: str = ""
    error_rate_source: str = VOSK_LIST
    error_rates: tuple[ErrorRate, ...] = ()
    speed: float = 0.0
    speed_source: str = ""
    repository: str = ""
    files: tuple[str, ...] = ()
    recommended: tuple[str, ...] = ()

    @property
    def tags(self) -> tuple[str, ...]:
        """Languages that it recognises, as BCP 47 tags."""
        return self.languages or (language_of(self.name),)

    def speaks(self, language: str) -> bool:
        """Return whether it recognises the language with this BCP 47 tag."""
        return any(same_language(tag, language) for tag in self.tags)

    def recommended_for(self, language: str) -> bool:
        """Return whether it is a first choice for the language with this BCP 47 tag."""
        return any(same_language(tag, language) for tag in self.recommended)

    def rates_for(self, language: str) -> tuple[ErrorRate, ...]:
        """Return the published error rates for the language with this BCP 47 tag."""
        return tuple(rate for rate in self.rates if same_language(rate.language, language))

    @property
    def rates(self) -> tuple[ErrorRate, ...]:
        """Published error rates, the one to show first at the beginning."""
        if self.error_rate is None:
            return self.error_rates
        own = ErrorRate(self.tags[0], self.error_rate, self.error_rate_on, self.error_rate_source)
        return (own, *self.error_rates)

    @property
    def download_bytes(self) -> int:
        """Size of the download: exact if `size` is known, else rounded; 0 if neither is known."""
        return self.size or self.about

    @property
    def unpacked_bytes(self) -> int:
        """Size on disk; estimated if it is not known."""
        return self.unpacked or int(self.download_bytes * _UNPACKED[self.type])

    @property
    def memory_bytes(self) -> int:
        """Memory of a fork server that serves it unprepared; estimated if it was not measured, 0 if
        no size is known."""
        loaded = self.loaded or self.unpacked_bytes
        if self.memory or not loaded:
            return self.memory
        if self.engine == "onnx":
            return int(loaded * _MEMORY_ONNX) + _ONNX_RUNTIME
        return int(loaded * (_MEMORY_SMALL if self.type == "small" else _MEMORY_BIG))

    @property
    def growth_bytes(self) -> int:
        """Growth of each worker after minutes of speech; an estimate if it was not measured."""
        return self.growth or _GROWTH[self.engine]


class _File(msgspec.Struct, frozen=True):
    model: list[CatalogEntry]


@dataclass(frozen=True, slots=True)
class Checksum:
    """Checksum that a file must have."""

    algorithm: str
    digest: str


def checksum_of(entry: CatalogEntry) -> Checksum | None:
    """Return the strongest known checksum; None if there is none."""
    if entry.sha256:
        return Checksum("sha256", entry.sha256)
    return Checksum("md5", entry.md5) if entry.md5 else None


@functools.cache
def _entries() -> tuple[CatalogEntry, ...]:
    """Return all entries, in the order of the file."""
    document = tomllib.loads(CATALOG.read_text(encoding="utf-8"))
    return tuple(msgspec.convert(document, _File).model)


@functools.cache
def catalog() -> tuple[CatalogEntry, ...]:
    """Return the speech models, in the order of the file."""
    return tuple(entry for entry in _entries() if entry.purpose == "speech")


@functools.cache
def punctuation_catalog() -> tuple[CatalogEntry, ...]:
    """Return the punctuation models, in the order of the file."""
    return tuple(entry for entry in _entries() if entry.purpose == "punctuation")


def language_tag(text: str) -> str | None:
    """Return the BCP 47 tag of a language that a model of the catalogue recognises, from a tag or
    from the language's English name; None if there is no such model."""
    for entry in catalog():
        if entry.speaks(text):
            return text.lower()
    wanted = text.lower()
    for entry in catalog():
        if len(entry.tags) == 1 and wanted == entry.language.lower().split(" ")[0]:
            return entry.tags[0].partition("-")[0]
    return None


def catalog_entry(name: str) -> CatalogEntry | None:
    """Return the model of that name or alias, whatever its purpose; None if the catalogue does not
    have it."""
    return next((entry for entry in _entries() if name in (entry.name, entry.alias or None)), None)
