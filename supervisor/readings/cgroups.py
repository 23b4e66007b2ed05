"""Cgroups of this process, in the hierarchies of version 1 and 2 (cgroups(7))."""

from collections.abc import Mapping
from pathlib import Path

from supervisor.readings.files import read_file

ROOT = Path("/sys/fs/cgroup")
UNIFIED = ""
"""Name under which version 2 is listed."""


def own_cgroups(file: Path = Path("/proc/self/cgroup")) -> dict[str, str]:
    """Return paths by controller name; version 2 is under `UNIFIED`."""
    cgroups = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            cgroups[controller] = path
    return cgroups


def directories(root: Path, cgroups: Mapping[str, str], controller: str) -> list[Path]:
    """Return the directories from the root of a hierarchy down to this process, for a version 1
    controller, or for `UNIFIED`.

    Inside a container the kernel's path may not exist; then the root is the container's own, and
    the other directories do not exist.
    """
    path = cgroups.get(controller)
    if path is None:
        return []
    bases = [root, root / "unified"] if controller == UNIFIED else [root / controller]
    found = []
    for base in bases:
        directory = base
        found.append(directory)
        for part in Path(path).parts[1:]:
            directory = directory / part
            found.append(directory)
    return found


def read_word(file: Path) -> str:
    """Return the file's text without white space around it; empty where it cannot be read."""
    return read_file(file).decode("ascii").strip()
