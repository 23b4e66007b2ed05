"""Unfinished downloads: where they wait, and leftovers of those that broke off."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.catalog import CatalogEntry
from models.contract import ModelError
from models.fetching.download import ATTEMPTS, ATTEMPTS_ELSEWHERE, Bounds, download
from models.fetching.sources import Source, archive_name
from models.leftovers import Leftover, bytes_of

Progress = Callable[[str, int, int], None]
"""Receiver of each phase ("download", "check", "unpack"): bytes done, and the total (0:
unknown)."""

WAITING = ".fetch"
"""Directory of unfinished downloads in the models directory."""
UNPACKING = "unpacking-"
"""Beginning of the names of directories in which a model is unpacked."""

_MOST_BYTES = 16 * 10**9
"""Bytes of a download without a published size, at most."""
_ABOUT = 1.15
"""Factor by which a size that was published rounded may be exceeded."""
_SUFFIX = re.compile(r"\.(?:zip|tar\.bz2|files)(?:\.|$)")


@dataclass(frozen=True, slots=True)
class Waiting:
    """Downloads of one model, in `directory`, which no other process uses for this model."""

    name: str
    entry: CatalogEntry | None
    directory: Path
    on_progress: Progress
    pause_s: float
    """Seconds before a failed request is repeated; longer from one to the next."""

    async def archive(self, source: Source, *, first: bool, last: bool) -> Path:
        """Download the archive of a source, or the rest of it. `first`, `last`: whether it is the
        first or last of several sources, whose files are separate. Raises `ModelError`,
        `OSError`."""
        suffix = "" if first else f".{source.key}"
        file = self.directory / f"{archive_name(self.name, self.entry)}{suffix}"
        await self._download(source.archive, file, _bounds(self.entry), 0, last)
        return file

    async def files(self, source: Source, *, last: bool) -> Path:
        """Download the files of a source into a directory, or those that are missing. `last`: no
        other source is left. Raises `ModelError`, `OSError`."""
        folder = self.directory / f"{self.name}.files.{source.key}"
        here = 0
        try:
            for path, url in source.files:
                file = folder / path
                file.parent.mkdir(parents=True, exist_ok=True)
                if not file.exists():  # complete since an earlier attempt
                    await self._download(url, file, Bounds(None, _MOST_BYTES), here, last)
                here += file.stat().st_size
        except ModelError as error:
            if error.code != "download_broken":
                shutil.rmtree(folder)
            raise
        return folder

    def clear_away(self) -> None:
        """Delete leftovers of broken downloads of a model that is installed now."""
        for path in self.directory.iterdir():
            if path.suffix != ".lock" and _model_of(path) == self.name:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    async def _download(
        self, url: str, file: Path, bounds: Bounds, before: int, last: bool
    ) -> None:
        def report(here: int, total: int) -> None:
            self.on_progress("download", before + here, before + total if total else 0)

        attempts = ATTEMPTS if last else ATTEMPTS_ELSEWHERE
        await download(url, file, bounds, report, pause_s=self.pause_s, attempts=attempts)


def broken_downloads(models_directory: Path) -> list[Leftover]:
    """Return downloads that broke off, and leftovers of processes that were killed while they
    unpacked or removed a model. Raises `OSError`."""
    waiting = models_directory / WAITING
    found = []
    for path in sorted(waiting.iterdir()) if waiting.is_dir() else ():
        if path.suffix != ".lock":
            lock = waiting / f"{_model_of(path)}.lock"
            found.append(Leftover(path, "a download that broke off", bytes_of(path), lock))
    for path in sorted(models_directory.glob(".*-removed")):
        why = "left by a process that was killed while it removed a model"
        lock = models_directory / f"{path.name}.lock"
        found.append(Leftover(path, why, bytes_of(path), lock, certain=True))
    return found


def _model_of(path: Path) -> str:
    """Return the name of the model to which a file or directory of unfinished downloads belongs."""
    name = path.name.removeprefix(UNPACKING)
    return name.rpartition("-")[0] if name != path.name else _SUFFIX.split(name)[0]


def _bounds(entry: CatalogEntry | None) -> Bounds:
    if entry is None:
        return Bounds(None, _MOST_BYTES)
    return Bounds(entry.size or None, int(entry.download_bytes * _ABOUT) or _MOST_BYTES)
