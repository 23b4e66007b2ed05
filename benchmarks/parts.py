"""What the benchmarks share with the tests: servers, cgroups, toys and models that are made up."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

from cgroup import MB, MemoryCgroup, memory_cgroup, slow_disk, swap_file
from encoded import LOSSLESS, LOSSY, encoded
from front import Balancer, haproxy, running_nginx, send, shipped_site
from hosts import Host, network
from language_model import language_model
from naive_client import naive_server
from neighbour import Neighbour, neighbour
from ordinary_user import NOBODY, entrance
from remote_pool import RemotePool, remote_pool
from running import PROGRAM, RunningServer, free_port, start_server, until
from small_model import (
    SMALL_WORDS,
    add_rescoring,
    make_small_model,
    make_static_model,
    read_symbols,
)

TESTS = Path(__file__).parents[1] / "tests" / "support"

__all__ = [
    "LOSSLESS",
    "LOSSY",
    "MB",
    "NOBODY",
    "PROGRAM",
    "SMALL_WORDS",
    "TESTS",
    "Balancer",
    "Host",
    "MemoryCgroup",
    "Neighbour",
    "RemotePool",
    "RunningServer",
    "add_rescoring",
    "encoded",
    "entrance",
    "free_port",
    "haproxy",
    "language_model",
    "make_small_model",
    "make_static_model",
    "memory_cgroup",
    "naive_server",
    "neighbour",
    "network",
    "read_symbols",
    "remote_pool",
    "running_nginx",
    "send",
    "shipped_site",
    "slow_disk",
    "start_server",
    "swap_file",
    "until",
]
