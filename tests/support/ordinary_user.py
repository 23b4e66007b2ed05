"""A user other than root, for a process that a test starts."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable

from cgroup import MemoryCgroup

ORDINARY_USER = 65534


def entrance(group: MemoryCgroup, user: int | None) -> tuple[Callable[[], None], str]:
    """Return a function to call in a child before exec, which puts it into the group and gives it
    to the user (None: ours); and an interpreter that this user may run."""

    def enter() -> None:
        group.enter()
        if user is not None:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)

    return enter, sys.executable if user is None else python_for(user)


def python_for(user: int) -> str:
    """Return an interpreter that this user may run, with our packages: the usual one may be in
    root's home."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}"):
        check = [python, "-c", "import msgspec, structlog, psutil, supervisor"]
        with contextlib.suppress(OSError):
            run = subprocess.run(
                check,
                user=user,
                group=user,
                extra_groups=[],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                check=False,
            )
            if run.returncode == 0:
                return python
    raise AssertionError("there is no interpreter for an ordinary user")
