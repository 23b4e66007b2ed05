"""Report of the memory of all processes, to save or to send."""

import os
import platform
from pathlib import Path
from typing import Any

import psutil

from modelserver.admin.health import Health
from modelserver.admin.history import FIELDS, Sample


def report(health: Health, history: list[Sample]) -> dict[str, Any]:
    """Return the health document, the last hours, and what the kernel reports of each process."""
    me = psutil.Process()
    return {
        "machine": {
            "kernel": platform.release(),
            "processor": platform.machine(),
            "python": platform.python_version(),
            "memory": psutil.virtual_memory()._asdict(),
            "swap": psutil.swap_memory()._asdict(),
            "load": os.getloadavg(),
        },
        "health": health,
        "history": {"fields": FIELDS, "samples": history},
        "processes": [_process(one) for one in (me, *me.children(recursive=True))],
    }


def _process(process: psutil.Process) -> dict[str, Any]:
    try:
        with process.oneshot():
            found = {
                "pid": process.pid,
                "parent": process.ppid(),
                "name": process.name(),
                "threads": process.num_threads(),
                "descriptors": process.num_fds(),
                "nice": process.nice(),
                "cpu_s": sum(process.cpu_times()[:2]),
            }
        found["rollup"] = _rollup(process.pid)
    except psutil.Error:
        return {"pid": process.pid, "gone": True}
    return found


def _rollup(pid: int) -> dict[str, int]:
    """Return bytes by kind, as /proc/PID/smaps_rollup gives them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return {}
    parts = [line.split() for line in lines]
    return {one[0].rstrip(":"): int(one[1]) * 1024 for one in parts if one[-1] == "kB"}
