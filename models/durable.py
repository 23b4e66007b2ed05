"""Making sure that what was written is on disk before it is put in its place."""

import os
from pathlib import Path


def sync_files(directory: Path) -> None:
    """Every file in it that is not a link. Raises `OSError`."""
    for file in directory.rglob("*"):
        if not file.is_symlink() and file.is_file():
            with file.open("rb") as written:
                os.fsync(written.fileno())
