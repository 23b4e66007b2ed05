"""Checksums of models that the catalogue does not know: recorded when one is first fetched, and
checked from then on."""

import contextlib
import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from models.catalog import Checksum

PINS = ".pins.json"


class Pin(msgspec.Struct, frozen=True):
    """Record of the first download under a name."""

    sha256: str
    size: int
    source: str
    pinned: str


def read_pin(models_directory: Path, name: str) -> Checksum | None:
    """Return the recorded checksum of that model. Raises `ValueError` if the record is
    unreadable."""
    pin = _read(models_directory).get(name)
    return Checksum("sha256", pin.sha256) if pin else None


def record_pin(models_directory: Path, name: str, *, sha256: str, size: int, source: str) -> None:
    """Record a checksum. Raises `OSError`."""
    file = models_directory / PINS
    lock = os.open(models_directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pins = _read(models_directory)
        pins[name] = Pin(sha256, size, source, datetime.now(UTC).isoformat(timespec="seconds"))
        partial = file.with_suffix(".partial")
        with partial.open("wb") as writer:
            writer.write(msgspec.json.format(msgspec.json.encode(pins)))
            writer.flush()
            os.fsync(writer.fileno())
        partial.rename(file)
    finally:
        os.close(lock)


def _read(models_directory: Path) -> dict[str, Pin]:
    with contextlib.suppress(FileNotFoundError):
        data = (models_directory / PINS).read_bytes()
        return msgspec.json.decode(data, type=dict[str, Pin])
    return {}
