"""What nobody may see by halves: files that are on disk before they are put in their place, and
trees that are gone all at once."""

import os
import shutil
from pathlib import Path


def sync_files(directory: Path) -> None:
    """Every file in it that is not a link. Raises `OSError`."""
    for file in directory.rglob("*"):
        if not file.is_symlink() and file.is_file():
            with file.open("rb") as written:
                os.fsync(written.fileno())


def remove_tree(directory: Path, aside: Path) -> None:
    """Delete it, all at once for who looks: first it is out of sight, under the name of `aside`,
    which may be left of a time before. Raises `OSError`."""
    if aside.exists():
        shutil.rmtree(aside)
    directory.rename(aside)
    shutil.rmtree(aside)
