"""Programs that tests build, kept between runs beside prepared models."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from modelserver.settings import Settings


def kept(name: str, sources: Iterable[Path], make: Callable[[Path], object]) -> Path:
    """Return a directory that `make` has filled: once for each content of the files `sources`."""
    digest = hashlib.sha256()
    for source in sorted(sources):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    directory = Settings().prepared_dir.parent / "tests" / f"{name}-{digest.hexdigest()[:16]}"
    if not directory.is_dir():
        partial = directory.with_name(f".{directory.name}-{os.getpid()}")
        partial.mkdir(parents=True)
        make(partial)
        with contextlib.suppress(OSError):  # another process was faster
            partial.rename(directory)
        shutil.rmtree(partial, ignore_errors=True)
    return directory
