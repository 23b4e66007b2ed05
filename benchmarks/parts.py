"""Parts that the benchmarks share with the tests: servers, cgroups, toy and artificial models."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

from cgroup import MB, MemoryCgroup, memory_cgroup, swap_file
from encoded import LOSSLESS, LOSSY, encoded
from front import running_nginx, shipped_site
from language_model import language_model
from naive_client import naive_server
from neighbour import Neighbour, neighbour
from ordinary_user import ORDINARY_USER, entrance
from remote_pool import RemotePool, remote_pool
from running import PROGRAM, RunningServer, free_port, start_server, until

TESTS = Path(__file__).parents[1] / "tests" / "support"

__all__ = [
    "LOSSLESS",
    "LOSSY",
    "MB",
    "ORDINARY_USER",
    "PROGRAM",
    "TESTS",
    "MemoryCgroup",
    "Neighbour",
    "RemotePool",
    "RunningServer",
    "encoded",
    "entrance",
    "free_port",
    "language_model",
    "memory_cgroup",
    "naive_server",
    "neighbour",
    "remote_pool",
    "running_nginx",
    "shipped_site",
    "start_server",
    "swap_file",
    "until",
]
