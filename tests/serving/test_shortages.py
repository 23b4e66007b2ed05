"""Shortages other than memory: a sentence each, no storm of restarts, and recovery."""

import contextlib
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cgroup import MB, cgroup_of, enter
from ordinary_user import python_for
from running import RunningServer, start_server, until

import models

SOMEBODY = 54_321
"""Uid of a user who has no processes."""


@contextlib.contextmanager
def few_processes(
    most: int, directory: Path, **settings: str
) -> Iterator[tuple[Path, RunningServer]]:
    """A server that, with all below it, may be so many processes and threads, and the file that
    says so."""
    with cgroup_of("pids") as group:
        limit = group / "pids.max"
        limit.write_text(str(most))

        def join() -> None:
            enter(group, os.getpid())

        with start_server(directory, before_exec=join, **settings) as server:
            yield limit, server


@pytest.fixture
def settings(small: models.ModelLocation) -> dict[str, str]:
    return {"MODELSERVER_MODEL": str(small.directory)}


def reason(server: RunningServer) -> str:
    document = server.ask("/readyz").json
    return str(document.get("error", {}).get("message", ""))


def failures(server: RunningServer) -> int:
    return len(server.events("model.start_failed"))


def test_too_few_processes_is_said_and_over_when_there_are_more(
    settings: dict[str, str], tmp_path: Path, wav_clips: list[bytes]
) -> None:
    with few_processes(9, tmp_path, **settings) as (limit, server):
        until(lambda: "of the processes and threads are left" in reason(server))
        assert "pids.max" in reason(server)
        until(lambda: failures(server) >= 3)
        limit.write_text("100")
        server.wait_whole()
        assert server.convert(wav_clips[0]).status == 200
        assert failures(server) < 12  # it was tried ever more seldom


def test_too_few_processes_of_an_ordinary_user_are_said_too(
    embedded: models.ModelLocation, wav_clips: list[bytes]
) -> None:
    """Use `ulimit -u`, which does not bind root."""

    def become() -> None:
        os.setgroups([])
        os.setgid(SOMEBODY)
        os.setuid(SOMEBODY)
        resource.setrlimit(resource.RLIMIT_NPROC, (9, 4096))

    given = {
        "MODELSERVER_MODEL": str(embedded.directory),
        "MODELSERVER_LANGUAGE": "ko",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        os.chown(directory, SOMEBODY, SOMEBODY)
        given["HOME"] = given["XDG_STATE_HOME"] = given["XDG_CACHE_HOME"] = name
        with start_server(
            directory, before_exec=become, python=python_for(SOMEBODY), **given
        ) as server:
            until(lambda: "ulimit -u" in reason(server))
            subprocess.run(
                ["prlimit", f"--pid={server.pid}", "--nproc=4096"],
                user=SOMEBODY,
                group=SOMEBODY,
                extra_groups=[],
                check=True,
            )
            server.wait_whole()
            assert server.convert(wav_clips[0]).status == 200


def test_too_few_processes_for_another_worker_costs_no_other(
    settings: dict[str, str], tmp_path: Path, wav_clips: list[bytes]
) -> None:
    with few_processes(100, tmp_path, **settings) as (limit, server):
        server.wait_whole()
        limit.write_text(str(int((limit.parent / "pids.current").read_text()) - 1))
        server.workers()[0].kill()
        failed = until(lambda: server.events("worker.start_failed"))
        assert "no more processes may be started: pids.max" in failed[0]["reason"]
        assert server.convert(wav_clips[0]).status == 200
        limit.write_text("100")
        server.wait_whole()


def test_too_few_addresses_is_said_instead_of_waiting_for_ever(
    settings: dict[str, str], tmp_path: Path
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (700 * MB, 700 * MB))

    with start_server(tmp_path, before_exec=limit, **settings) as server:
        said = until(lambda: reason(server) if "ulimit -v" in reason(server) else "")
        assert "a process may have 700 MB of addresses" in said
        until(lambda: failures(server) >= 2)


@pytest.mark.parametrize(
    "hide",
    [
        "mount -t tmpfs none /sys/fs/cgroup",
        "mount -o remount,bind,ro /sys/fs/cgroup/memory && mount -o remount,bind,ro /sys/fs/cgroup",
        "mount -t tmpfs -o ro,size=4k none /dev/shm",
    ],
    ids=["no cgroups", "cgroups read-only", "no shared memory directory"],
)
def test_what_is_hidden_is_done_without(
    hide: str, settings: dict[str, str], tmp_path: Path, wav_clips: list[bytes]
) -> None:
    def hidden() -> None:
        _unshare()
        subprocess.run(f"mount --make-rprivate / && {hide}", shell=True, check=True)

    with start_server(tmp_path, before_exec=hidden, **settings) as server:
        server.wait_whole()
        assert server.convert(wav_clips[0]).status == 200


def _unshare() -> None:
    if ctypes.CDLL(None).unshare(0x00020000) != 0:  # CLONE_NEWNS
        raise OSError("no namespace of its own")


def test_without_proc_it_does_not_start_and_says_why() -> None:
    command = f"mount -t tmpfs none /proc && exec {sys.executable} -m modelserver serve --port 0"
    run = subprocess.run(
        ["unshare", "-m", "sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert run.returncode == 1
    assert "/proc is not mounted" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_tenth_of_a_processor_is_slow_and_nothing_else(
    settings: dict[str, str], tmp_path: Path, wav_clips: list[bytes]
) -> None:
    with start_server(tmp_path, **settings) as server:
        server.wait_whole()
        with cgroup_of("cpu") as group:
            (group / "cpu.cfs_quota_us").write_text("10000")
            for process in server.tree():
                enter(group, process.pid)
            try:
                assert server.convert(wav_clips[0]).status == 200
                assert server.ask("/healthz").status == 200
                assert server.events("worker.hung", "worker.exited") == []
            finally:
                (group / "cpu.cfs_quota_us").write_text("-1")
                for process in server.tree():
                    enter(group.parent, process.pid)
