"""Leftovers of builds: programs and libraries that this version does not use."""

from pathlib import Path

from models.leftovers import Leftover, bytes_of
from models.vosk.prepared.compiler import GRAPH_COMPILER
from models.vosk.simd import SIMD


def old_builds(cache: Path) -> list[Leftover]:
    """List files that were built from other sources, or for another machine. Raises `OSError`."""
    current = {SIMD.path(cache), GRAPH_COMPILER.path(cache)}
    files = sorted((cache / "tools").glob("*")) if (cache / "tools").is_dir() else []
    why = "built from other sources, or for another machine"
    lock = cache / ".lock-tools"
    return [
        Leftover(file, why, bytes_of(file), lock)
        for file in files
        if file not in current and not file.name.startswith(".")
    ]
