"""Number of CPUs that this process may use."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

from supervisor.readings.cgroups import ROOT, UNIFIED, directories, own_cgroups, read_word

_PERIOD_US = 100_000


def usable_cpus() -> int:
    """Return how many CPUs this process may use, by its affinity and its cgroup's quota."""
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota(ROOT, own_cgroups())
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cpu_quota(root: Path, cgroups: Mapping[str, str]) -> float | None:
    """Return the tightest cgroup quota along the path, in CPUs; None where there is none."""
    quotas = []
    for directory in directories(root, cgroups, UNIFIED):
        quota, _, period = read_word(directory / "cpu.max").partition(" ")
        if quota not in ("", "max"):
            quotas.append(int(quota) / int(period or _PERIOD_US))
    for directory in directories(root, cgroups, "cpu"):
        us = read_word(directory / "cpu.cfs_quota_us")
        if us and int(us) > 0:
            period = read_word(directory / "cpu.cfs_period_us")
            quotas.append(int(us) / int(period or _PERIOD_US))
    return min(quotas, default=None)
