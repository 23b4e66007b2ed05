"""Unpacks a model's archive, which is untrusted.

Refused are: more entries, bytes or compression than a model has, names that lead out of the target,
links, devices, encrypted or duplicate entries. A zip archive lists its entries and is refused
before a byte is written; a tar archive is a stream, and is refused when such an entry is met. No
entry may be longer than its header says.
"""

from pathlib import Path
from typing import BinaryIO

from models.fetching import tar_archive, zip_archive
from models.fetching.archive import ArchiveLimits, Progress, name_of

__all__ = ["ArchiveLimits", "name_of", "top_directory", "unpack"]


def top_directory(archive: BinaryIO, limits: ArchiveLimits | None = None) -> str:
    """Return the one directory that contains everything: the archive's name for its model. Raises
    `ModelError`."""
    if tar_archive.is_tar(archive):
        return tar_archive.top_directory(archive, limits or ArchiveLimits())
    return zip_archive.top_directory(archive, limits or ArchiveLimits())


def unpack(
    archive: BinaryIO, target: Path, on_progress: Progress, limits: ArchiveLimits | None = None
) -> None:
    """Fill the directory `target` with the content of the archive's one directory.

    `on_progress` receives bytes done, and the total. Raises `ModelError`, `OSError`.
    """
    if tar_archive.is_tar(archive):
        tar_archive.unpack(archive, target, on_progress, limits or ArchiveLimits())
    else:
        zip_archive.unpack(archive, target, on_progress, limits or ArchiveLimits())
