"""Prepared models that are harmed, and what is left of them."""

from pathlib import Path

from models.prepared.store import PARTIAL_PREFIX


def leftovers(store: Path) -> list[str]:
    """Return what a preparation that ended has not tidied up."""
    return [p.name for p in store.iterdir() if p.name.startswith(PARTIAL_PREFIX)]


def flip(file: Path, at: int) -> None:
    """Flip one bit of the byte at `at`."""
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte[0] ^ 0x40]))
