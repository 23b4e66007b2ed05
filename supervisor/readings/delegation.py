"""A version 2 cgroup that was handed over to us, as systemd does with `Delegate=`, and the one that
we make below it: there, and nowhere else, limits may be set by who is in it.

Documentation/admin-guide/cgroup-v2.rst ("Delegation"), and systemd's "Control Group APIs and
Delegation", which has the attributes by which root tells such a cgroup from others.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import structlog

from supervisor.readings.cgroups import ROOT, UNIFIED, directories, own_cgroups

log: structlog.stdlib.BoundLogger = structlog.get_logger("guard")

NAME = "serving"
"""Of the cgroup that is ours."""
_MARKS = ("user.delegate", "trusted.delegate")


def settle(root: Path = ROOT, cgroups: Mapping[str, str] | None = None) -> None:
    """Move this process into a cgroup of its own, with the memory controller, where the one that it
    is in was handed over to it and holds nobody else."""
    directory = _innermost(root, own_cgroups() if cgroups is None else cgroups)
    if directory is None or directory.name == NAME or not _handed_over(directory):
        return
    ours = directory / NAME
    try:
        if (directory / "cgroup.procs").read_text(encoding="ascii").split() != [str(os.getpid())]:
            return
        ours.mkdir(exist_ok=True)
        (ours / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        # Only a cgroup without processes may do that (the "no internal processes" rule).
        (directory / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
        lift(ours)  # another process may have been here before
    except OSError as error:
        log.warning("guard.cgroup_not_used", directory=str(directory), reason=str(error))
        return
    log.info("guard.cgroup", directory=str(ours))


def settled(root: Path, cgroups: Mapping[str, str]) -> Path | None:
    """The cgroup that is ours, if this process is in one."""
    directory = _innermost(root, cgroups)
    if directory is None or directory.name != NAME or not _handed_over(directory.parent):
        return None
    return directory if (directory / "memory.high").exists() else None


def lift(ours: Path) -> None:
    """Set no threshold. Raises `OSError`."""
    (ours / "memory.high").write_text("max", encoding="ascii")


def _innermost(root: Path, cgroups: Mapping[str, str]) -> Path | None:
    """This process's, where version 2 has the memory controller."""
    for directory in reversed(directories(root, cgroups, UNIFIED)):
        with contextlib.suppress(OSError):
            controllers = (directory / "cgroup.controllers").read_text(encoding="ascii").split()
            return directory if "memory" in controllers else None
    return None


def _handed_over(directory: Path) -> bool:
    files = (directory, directory / "cgroup.procs", directory / "cgroup.subtree_control")
    if not all(os.access(file, os.W_OK) for file in files):
        return False
    if (user := os.getuid()) != 0:
        return directory.stat().st_uid == user
    # Root may write to all of them: that does not make them root's own.
    for mark in _MARKS:
        with contextlib.suppress(OSError):
            if os.getxattr(directory, mark) == b"1":
                return True
    return False
