"""Addresses at which a file is mapped, as the kernel shows them; an older kernel shows files of an
overlay under another device."""

import contextlib
import mmap
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cgroup import cannot

from models.vosk.mapping import find_mappings

SIZE = 5 * mmap.PAGESIZE + 1


@contextlib.contextmanager
def overlay() -> Iterator[Path]:
    """Give a directory as a container's files are: below it a layer that has `file`."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as temporary:
        lower, upper, work, root = (Path(temporary) / name for name in ("l", "u", "w", "root"))
        for directory in (lower, upper, work, root):
            directory.mkdir()
        (lower / "file").write_bytes(bytes(SIZE))
        layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
        command = ["mount", "-t", "overlay", "overlay", "-o", layers, str(root)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            cannot(f"no overlay can be mounted: {mounted.stderr}")
        try:
            yield root / "file"
        finally:
            subprocess.run(["umount", str(root)], check=True)


@contextlib.contextmanager
def plain() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "file"
        file.write_bytes(bytes(SIZE))
        yield file


@pytest.mark.parametrize("place", [plain, overlay])
def test_a_file_is_found_where_it_is_mapped(
    place: "type[contextlib.AbstractContextManager[Path]]",
) -> None:
    with place() as file, file.open("rb") as opened:
        assert find_mappings(file) == []
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ):
            assert [mapping.length for mapping in find_mappings(file)] == [6 * mmap.PAGESIZE]
        assert find_mappings(file) == []
