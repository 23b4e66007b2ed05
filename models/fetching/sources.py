"""Addresses from which a model is downloaded, tried in order.

An address is a folder that has the model's archive, or a template: `{name}`, `{archive}` (NAME.zip
for Vosk, NAME.tar.bz2 for ONNX) and `{repository}` (OWNER/NAME) stand for the model's own. With
`{file}` the model is fetched file by file, as Hugging Face and ModelScope have it.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from models.catalog import CatalogEntry, catalog_entry
from models.contract import ModelError

DEFAULT_SOURCES = {
    "vosk": ("https://alphacephei.com/vosk/models",),
    "onnx": (
        "https://github.com/k2-fsa/sherpa-onnx/releases/download/asr-models",
        "https://huggingface.co/{repository}/resolve/main/{file}",
        "https://hf-mirror.com/{repository}/resolve/main/{file}",
    ),
    "punctuation": (
        "https://github.com/k2-fsa/sherpa-onnx/releases/download/punctuation-models",
        "https://huggingface.co/{repository}/resolve/main/{file}",
        "https://hf-mirror.com/{repository}/resolve/main/{file}",
    ),
}
"""Servers of each engine's models, and of punctuation models, if `models_urls` names none."""

_FIELD = re.compile(r"\{([^{}]*)\}")
_FIELDS = ("name", "archive", "repository", "file")
_OF_ONNX = re.compile(r"(sherpa-onnx|icefall)-")
"""Start of the names of ONNX models that the catalogue does not know."""
_PUNCTUATION = re.compile(r"sherpa-onnx-(online-)?punct-")


@dataclass(frozen=True, slots=True)
class Source:
    """Copy of a model on one server: an archive, or files by their paths inside the model."""

    address: str
    archive: str = ""
    """URL of the archive; empty: file by file."""
    files: tuple[tuple[str, str], ...] = ()
    """Path inside the model, and URL, of each file."""

    @property
    def key(self) -> str:
        """Short name of the source in names of files, stable from one run to the next."""
        return f"{zlib.crc32(self.address.encode()):08x}"


def archive_name(name: str, entry: CatalogEntry | None) -> str:
    """Return the name of a model's archive where its publisher offers it."""
    return f"{name}.tar.bz2" if _engine(name, entry) == "onnx" else f"{name}.zip"


def sources_of(
    name: str, entry: CatalogEntry | None, addresses: Sequence[str]
) -> tuple[list[Source], list[ModelError]]:
    """Return the sources of a model, in the order of `addresses` (by default those of its engine),
    and why some addresses cannot have it. Raises `ModelError` for an invalid template."""
    found, problems = [], []
    for address in addresses or DEFAULT_SOURCES[_publisher(name, entry)]:
        try:
            found.append(_source(name, entry, address))
        except ModelError as error:
            if error.code == "bad_url":
                raise
            problems.append(error)
    return found, problems


def has_source(name: str, addresses: Sequence[str]) -> bool:
    """Return whether one of `addresses` may have the model, by what the catalogue says of it; True
    for addresses that `sources_of` refuses."""
    try:
        found, _ = sources_of(name, catalog_entry(name), addresses)
    except ModelError:
        return True
    return bool(found)


def _source(name: str, entry: CatalogEntry | None, address: str) -> Source:
    archive = archive_name(name, entry)
    if unknown := set(_FIELD.findall(address)) - set(_FIELDS):
        known = ", ".join(f"{{{field}}}" for field in _FIELDS)
        raise ModelError("bad_url", f"{address}: {{{min(unknown)}}} is unknown; there are: {known}")
    repository = entry.repository if entry else ""
    if "{repository}" in address and not repository:
        raise _not_there(name, address, "repository")
    fields = {"name": name, "archive": archive, "repository": repository}
    if "{file}" in address:
        if entry is None or not entry.files:
            raise _not_there(name, address, "list of files")
        files = tuple((file, _filled(address, fields | {"file": file})) for file in entry.files)
        return Source(address, files=files)
    if _FIELD.search(address):
        return Source(address, _filled(address, fields))
    return Source(address, f"{address.rstrip('/')}/{archive}")


def _filled(address: str, fields: dict[str, str]) -> str:
    return _FIELD.sub(lambda match: fields[match[1]], address)


def _not_there(name: str, address: str, what: str) -> ModelError:
    return ModelError("download_failed", f"{address}: the catalogue has no {what} of {name}")


def _publisher(name: str, entry: CatalogEntry | None) -> str:
    """Return the key of `DEFAULT_SOURCES`."""
    if entry.purpose == "punctuation" if entry is not None else _PUNCTUATION.match(name):
        return "punctuation"
    return _engine(name, entry)


def _engine(name: str, entry: CatalogEntry | None) -> str:
    if entry is not None:
        return entry.engine
    return "onnx" if _OF_ONNX.match(name) else "vosk"
