"""The shipped unit where the memory controller has version 2, on a booted systemd: `make
test-cgroup2`. It installs into the machine that it runs on, so it runs in the virtual one alone."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT as PROJECT
from running import until

from supervisor.readings.cgroups import ROOT

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.skipif(
        "modelserver.systemd" not in Path("/proc/cmdline").read_text().split(),
        reason="it is for a virtual machine",
    ),
]

UNIT = "modelserver.service"
GROUP = ROOT / "system.slice" / UNIT
PROGRAM = """#!/bin/sh
export PYTHONPATH={path} PYTHONDONTWRITEBYTECODE=1
exec /usr/bin/python3 -m modelserver "$@"
"""
"""The environment of the tests is root's, and the service an ordinary user's."""
SETTINGS = 'port = 8093\nprepare = "never"\ndebug.warmup = "none"\nworkers.count = 2\n'


def systemctl(*arguments: str) -> str:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def shown(name: str) -> str:
    return systemctl("show", "--property", name, "--value", UNIT)


def pids(directory: Path) -> list[str]:
    return (directory / "cgroup.procs").read_text().split()


@pytest.fixture(scope="module", autouse=True)
def service() -> Iterator[None]:
    """Start the service as it is shipped, with more time."""
    subprocess.run(["systemd-sysusers", PROJECT / "systemd/modelserver.sysusers"], check=True)
    program = Path("/opt/modelserver/bin/modelserver")
    program.parent.mkdir(parents=True)
    program.write_text(PROGRAM.format(path=":".join([*filter(None, sys.path), str(PROJECT)])))
    program.chmod(0o755)
    Path("/etc/modelserver.toml").write_text(SETTINGS)
    shutil.copy(PROJECT / "systemd" / UNIT, "/etc/systemd/system")
    slow = Path(f"/etc/systemd/system/{UNIT}.d/slow.conf")
    slow.parent.mkdir()
    slow.write_text("[Service]\nTimeoutStartSec=600\nWatchdogSec=600\n")
    systemctl("daemon-reload")
    systemctl("start", UNIT)
    yield
    systemctl("stop", UNIT)


def test_it_keeps_to_the_limit_of_its_unit() -> None:
    assert shown("MainPID") in pids(GROUP)
    log = subprocess.run(
        ["journalctl", "--unit", UNIT, "--output", "cat"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"cgroup {GROUP} (memory.high)" in log, "what bounds it is the unit's"


def test_it_comes_back_from_a_crash_and_is_restarted() -> None:
    before = shown("MainPID")
    subprocess.run(["kill", "-KILL", before], check=True)
    until(lambda: shown("NRestarts") == "1" and shown("ActiveState") == "active", 40)
    assert shown("MainPID") != before
    assert shown("MainPID") in pids(GROUP)
    systemctl("restart", UNIT)
    assert (shown("ActiveState"), shown("Result")) == ("active", "success")
    assert shown("MainPID") in pids(GROUP)


def test_nothing_is_left_of_it() -> None:
    systemctl("stop", UNIT)
    assert not GROUP.exists()
    systemctl("start", UNIT)
