"""A real memory cgroup for a test: the kernel's own limit, and its own count of kills."""

import contextlib
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from running import until

from supervisor.readings.cgroups import ROOT, UNIFIED, own_cgroups

MB = 1_000_000


VERSION_2 = (ROOT / "cgroup.controllers").is_file()
"""True if there is only version 2 here."""


class MemoryCgroup:
    """A memory cgroup that this test made, of either version."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def limit(self, count: int) -> None:
        """Set the limit. The kernel takes file cache back to get there, which may take tries."""
        file = "memory.max" if VERSION_2 else "memory.limit_in_bytes"
        for _ in range(50):
            try:
                (self.directory / file).write_text(str(count))
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError(f"the limit cannot be set to {count}")

    def enter(self) -> None:
        """Move this process in; to be called in a child before exec."""
        enter(self.directory, os.getpid())

    def oom_kills(self) -> int:
        """Return how often the kernel's OOM killer acted here."""
        file = "memory.events" if VERSION_2 else "memory.oom_control"
        lines = (self.directory / file).read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    def usage(self) -> int:
        """Return what is charged, file cache included."""
        file = "memory.current" if VERSION_2 else "memory.usage_in_bytes"
        return int((self.directory / file).read_text())


@contextlib.contextmanager
def cgroup_of(controller: str) -> Iterator[Path]:
    """The directory of a cgroup below our own. Skips where none can be made, but fails in CI."""
    if VERSION_2:
        parent = ROOT / own_cgroups().get(UNIFIED, "/").lstrip("/")
    else:
        parent = ROOT / controller / own_cgroups().get(controller, "/").lstrip("/")
    directory = parent / f"modelserver-test-{uuid.uuid4().hex[:8]}"
    try:
        if VERSION_2:
            (parent / "cgroup.subtree_control").write_text(f"+{controller}")
        directory.mkdir()
    except OSError as error:
        cannot(f"no {controller} cgroup can be made: {error}")
    try:
        yield directory
    finally:
        remove(directory)


def enter(directory: Path, pid: int) -> None:
    """Move a process into a cgroup."""
    (directory / "cgroup.procs").write_text(str(pid))


def hand_over(directory: Path) -> None:
    """Mark a cgroup as systemd does that it has handed over to a service of root's."""
    os.setxattr(directory, "trusted.delegate", b"1")


@contextlib.contextmanager
def memory_cgroup(limit: int) -> Iterator[MemoryCgroup]:
    """A cgroup with a limit in bytes."""
    with cgroup_of("memory") as directory:
        group = MemoryCgroup(directory)
        group.limit(limit)
        yield group


def remove(directory: Path) -> None:
    """Remove a cgroup whose processes have ended, and those below it."""

    def removed() -> bool:
        try:
            for below in directory.glob("*/"):
                below.rmdir()
            directory.rmdir()
        except OSError:  # its last process is still on its way out
            return False
        return True

    until(removed, 10.0, f"{directory} can be removed")


class Freezer:
    """A version 1 freezer cgroup that this test made."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def freeze(self, pid: int) -> None:
        """Freeze a process: nothing ends it from now on, not even SIGKILL."""
        enter(self._directory, pid)
        (self._directory / "freezer.state").write_text("FROZEN")

    def thaw(self) -> None:
        """Thaw everything that was frozen."""
        (self._directory / "freezer.state").write_text("THAWED")


@contextlib.contextmanager
def freezer() -> Iterator[Freezer]:
    """Give a freezer, which is thawed at the end."""
    with cgroup_of("freezer") as directory:
        group = Freezer(directory)
        try:
            yield group
        finally:
            group.thaw()


class SlowDisk:
    """A version 1 block I/O cgroup that this test made, and a disk."""

    def __init__(self, directory: Path, disk: str) -> None:
        self._directory = directory
        self._disk = disk

    def enter(self) -> None:
        """Move this process in; to be called in a child before exec."""
        (self._directory / "cgroup.procs").write_text(str(os.getpid()))

    def reads_per_s(self, count: int) -> None:
        """No more from now on."""
        (self._directory / "blkio.throttle.read_iops_device").write_text(f"{self._disk} {count}")


@contextlib.contextmanager
def slow_disk(file: Path) -> Iterator[SlowDisk]:
    """Give a slow disk, for the one that holds `file`. Skips if none can be slowed down, but fails
    in CI."""
    parent = Path("/sys/fs/cgroup/blkio") / own_cgroups().get("blkio", "/").lstrip("/")
    directory = parent / f"modelserver-test-{uuid.uuid4().hex[:8]}"
    device = os.stat(file).st_dev
    disk = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    if (disk / "partition").exists():
        disk = disk.parent
    try:
        number = (disk / "dev").read_text().strip()
        directory.mkdir()
    except OSError as error:
        cannot(f"no disk can be made slow: {error}")
    try:
        yield SlowDisk(directory, number)
    finally:
        remove(directory)


@contextlib.contextmanager
def slow_writes(directory: Path, size: int, bytes_per_s: int) -> Iterator[Path]:
    """A disk of its own, of `size` bytes, that writes so fast and no faster: where it is mounted.
    Skips where there can be none, but fails in CI."""
    image, mounted = directory / "disk.img", directory / "slow"
    mounted.mkdir()
    with image.open("wb") as out:
        out.truncate(size)
    # For the whole machine's processes: what is written back late is written by the kernel.
    throttle = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")
    with contextlib.ExitStack() as cleanup:
        try:
            _run("mkfs.ext4", "-q", image)
            device = _run("losetup", "--find", "--show", image)
            cleanup.callback(_run, "losetup", "--detach", device)
            number = (Path("/sys/block") / Path(device).name / "dev").read_text().strip()
            throttle.write_text(f"{number} {bytes_per_s}")
            cleanup.callback(throttle.write_text, f"{number} 0")
            _run("mount", device, mounted)
        except (OSError, subprocess.CalledProcessError) as error:
            cannot(f"no disk can be made slow: {error}")
        cleanup.callback(_run, "umount", mounted)
        yield mounted


def _run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def swap_file(file: Path, size: int) -> Iterator[None]:
    """Give swap of `size` bytes, for the whole machine. Skips if that is not possible, but fails in
    CI."""
    with file.open("wb") as out:
        out.write(bytes(size))
    file.chmod(0o600)
    made = subprocess.run(["mkswap", file], capture_output=True, check=False).returncode == 0
    if not made or subprocess.run(["swapon", file], check=False).returncode != 0:
        cannot("swap cannot be turned on")
    try:
        yield
    finally:
        subprocess.run(["swapoff", file], check=True)


def cannot(reason: str) -> NoReturn:
    """Skip a test for which something is missing here; in CI it fails."""
    if "CI" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)
