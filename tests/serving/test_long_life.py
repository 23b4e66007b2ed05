"""A server that runs for years: its clock is set, its settings are read again and again, its disks
fail."""

import contextlib
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cgroup import cannot
from running import Answer, RunningServer, start_server, until
from stopwatch import Stopwatch
from wavs import wav_file

from modelserver.jobs import clock
from modelserver.jobs.clock import SetClock
from modelserver.jobs.store import JobStore
from modelserver.jobs.thread import StoreThread

JOBS = "/v1/jobs"
DAY = 24 * 3600.0
OFFSET_CLOCK = """
import mmap, os, struct, time
with open(os.environ["CLOCK_OFFSET"], "rb") as file:
    offset = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
real = time.time
time.time = lambda: real() + struct.unpack("<d", offset)[0]
"""
"""The time of day is another: the machine's own cannot be set beside others."""
MB = 1_000_000
THREADS_OF_A_LOOP = 6
"""Threads that wait for files, at most, with two processors; each starts when it is first
needed."""


def job(server: RunningServer, wav: bytes) -> str:
    """Run a job; return its id once it is done."""
    taken = server.ask(JOBS, wav)
    assert taken.status == 202, taken.body
    job_id = str(taken.json["id"])
    until(lambda: state(server, job_id) == "done", 60, "the job is done")
    return job_id


def state(server: RunningServer, job_id: str) -> str | None:
    answer = server.ask(f"{JOBS}/{job_id}")
    return str(answer.json["state"]) if answer.status == 200 else None


# --- the clock ------------------------------------------------------------------------------------


def test_a_clock_that_is_set_is_told_from_one_that_is_adjusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    differences = iter([100.0, 100.5, 100.5 + DAY, 100.5 + DAY, 40.0])
    monkeypatch.setattr(clock, "_difference", lambda: next(differences))
    monkeypatch.setattr(clock, "_since_start", lambda: 7.0)
    watched = SetClock()
    assert watched.set_by() == 0.0
    assert watched.now() == 107.5  # until it is asked again, whatever is done to the clock
    assert watched.set_by() == DAY
    assert watched.now() == 107.5 + DAY
    assert watched.set_by() == 0.0
    assert watched.set_by() == pytest.approx(-60.5 - DAY)


async def test_a_clock_that_is_set_in_the_middle_of_a_question_is_not_half_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use the former clock for what is stored until the next question, and for the time, too."""
    days = 0
    monkeypatch.setattr(clock, "_difference", lambda: 1e9 + days * DAY)
    thread = StoreThread()
    await thread.open(tmp_path)
    before = 1e9 + clock._since_start()

    def while_it_is_set(_: JobStore) -> float:
        nonlocal days
        days = 10
        return thread.now()

    assert await thread.do(while_it_is_set) == pytest.approx(before, abs=60)
    assert await thread.do(lambda _: thread.now()) == pytest.approx(before + 10 * DAY, abs=60)
    await thread.close()


def test_a_clock_that_is_set_costs_nothing(
    small_settings: dict[str, str], tmp_path: Path, wav_clips: list[bytes]
) -> None:
    """A machine without a clock of its own; and one whose clock was wrong by a month."""
    (tmp_path / "sitecustomize.py").write_text(OFFSET_CLOCK)
    offset = tmp_path / "offset"

    def set_clock(days: float) -> None:
        with offset.open("r+b" if offset.exists() else "wb") as file:
            file.write(struct.pack("<d", days * DAY))

    set_clock(-3650)
    given = {"PYTHONPATH": str(tmp_path), "CLOCK_OFFSET": str(offset)}
    with start_server(tmp_path, **small_settings, **given) as server:
        server.wait_whole()
        first = job(server, wav_clips[0])
        set_clock(0)
        second = job(server, wav_clips[0])
        assert server.convert(wav_clips[0]).status == 200
        assert [state(server, one) for one in (first, second)] == ["done", "done"]
        set_clock(30)
        third = job(server, wav_clips[0])
        set_clock(-30)
        fourth = job(server, wav_clips[0])
        assert server.convert(wav_clips[0]).status == 200
        assert {state(server, one) for one in (first, second, third, fourth)} == {"done"}
        for one in (first, second, third, fourth):
            document = server.ask(f"{JOBS}/{one}").json
            assert document["created"] <= document["started"] <= document["ended"]
        assert [e["by_s"] > 0 for e in server.events("clock.adjusted")] == [True, True, False]
        assert not server.events("worker.exited", "fork_server.exited")


# --- reloads --------------------------------------------------------------------------------------


def test_two_hundred_reloads_leave_nothing_behind(
    small_settings: dict[str, str], tmp_path: Path, wav_clips: list[bytes]
) -> None:
    with start_server(tmp_path, **small_settings) as server:
        server.wait_whole()
        supervisor = psutil.Process(server.pid)

        def held() -> tuple[int, int]:
            return supervisor.num_fds(), len(server.tree())

        def used() -> int:
            return int(supervisor.memory_full_info().uss)

        def reload(times: int) -> None:
            for _ in range(times):
                seen = len(server.events("server.reloaded"))
                assert server.ask_admin("POST", "/admin/reload")[0] == 202
                server.wait_event("server.reloaded", seen)
            until(lambda: len(server.tree()) <= processes, 15, "the workers of before are gone")

        assert server.convert(wav_clips[0]).status == 200
        processes = len(server.tree())
        reload(50)
        before, threads, memory = held(), supervisor.num_threads(), used()
        reload(200)
        assert server.convert(wav_clips[0]).status == 200
        until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)), 15)
        assert supervisor.num_threads() < threads + THREADS_OF_A_LOOP
        until(lambda: used() - memory < 1.5 * MB, 90, "what is free is given back, once a minute")


# --- disks ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def disk(directory: Path) -> Iterator[tuple[Path, Path]]:
    """A file system of 400 MB, and the file that it is on."""
    image, mounted = directory / "image", directory / "disk"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(400 * MB)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True)
    mount = ["mount", "-o", "loop,errors=remount-ro", str(image), str(mounted)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        cannot("a file cannot be mounted")
    try:
        yield mounted, image
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=False)


@pytest.fixture
def on_disk(
    small_settings: dict[str, str], tmp_path: Path
) -> Iterator[tuple[Path, Path, RunningServer]]:
    """A server whose spool and jobs are on one of its own."""
    with disk(tmp_path) as (mounted, image):
        (mounted / "spool").mkdir()
        given = {
            "MODELSERVER_SPOOL_DIRECTORY": str(mounted / "spool"),
            "MODELSERVER_DEBUG_SPOOL_MEMORY_EACH": "256KiB",
            "MODELSERVER_JOBS_DIRECTORY": str(mounted / "jobs"),
        }
        with start_server(tmp_path, **{**small_settings, **given}) as server:
            server.wait_whole()
            yield mounted, image, server


def must_serve_from_memory(server: RunningServer, wav: bytes) -> None:
    assert server.convert(wav).status == 200
    assert server.ask("/readyz").status == 200
    assert not server.events("worker.exited", "fork_server.exited")


def must_say_why(answer: Answer, *words: str) -> None:
    assert 500 <= answer.status < 600, answer
    error = answer.json["error"]
    assert error["code"] != "internal", error
    assert any(word in error["message"].lower() for word in words), error


def must_tell_the_operator(server: RunningServer, why: str) -> None:
    until(lambda: any(said.endswith(why) for said in server.health()["reasons"]), what=why)
    assert server.health()["status"] == "degraded"


def must_be_well(server: RunningServer) -> None:
    until(lambda: server.health()["status"] == "ok", what="there is nothing to be said")


@pytest.fixture
def large(wav_clips: list[bytes], clips: list[bytes]) -> bytes:
    """More than is kept in memory."""
    found = wav_file(clips[0] + clips[1])
    assert len(found) > 256 * 1024 > len(wav_clips[0]) / 2
    return found


def test_a_disk_that_becomes_read_only(
    on_disk: tuple[Path, Path, RunningServer], clips: list[bytes], large: bytes
) -> None:
    mounted, _, server = on_disk
    small = wav_file(clips[0][: 32_000 * 3])
    done = job(server, small)
    found = subprocess.run(
        ["findmnt", "-no", "SOURCE", str(mounted)], check=True, capture_output=True, text=True
    )
    device = Path(found.stdout.strip()).name
    # As the kernel does it when it finds the file system damaged.
    Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")
    must_serve_from_memory(server, small)
    must_say_why(server.convert(large), "read-only")
    must_say_why(server.ask(JOBS, small), "read-only", "readonly")
    must_tell_the_operator(server, f"{mounted}/spool (spool.directory): Read-only file system")
    assert state(server, done) == "done"
    must_serve_from_memory(server, small)


def test_a_disk_that_is_full(
    on_disk: tuple[Path, Path, RunningServer], clips: list[bytes], large: bytes
) -> None:
    mounted, _, server = on_disk
    small = wav_file(clips[0][: 32_000 * 3])
    with contextlib.suppress(OSError), (mounted / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(MB))
    must_serve_from_memory(server, small)
    must_say_why(server.convert(large), "space", "full", "disk", "room")
    must_say_why(server.ask(JOBS, small), "space", "full", "disk", "room")
    must_tell_the_operator(server, "No space left on device")
    (mounted / "ballast").unlink()
    until(lambda: server.convert(large).status == 200, 20, "there is room again")
    must_be_well(server)
    job(server, small)


def test_a_directory_that_goes_away_and_comes_back(
    on_disk: tuple[Path, Path, RunningServer], clips: list[bytes], large: bytes
) -> None:
    mounted, _, server = on_disk
    (mounted / "spool").rename(mounted / "away")
    must_say_why(server.convert(large), "no such file")
    must_tell_the_operator(server, "No such file or directory")
    must_serve_from_memory(server, wav_file(clips[0][: 32_000 * 3]))
    (mounted / "away").rename(mounted / "spool")
    assert server.convert(large).status == 200
    must_be_well(server)


def test_a_disk_that_fails(
    on_disk: tuple[Path, Path, RunningServer], clips: list[bytes], large: bytes
) -> None:
    """Remove the disk under the files: writing is an I/O error."""
    mounted, image, server = on_disk
    small = wav_file(clips[0][: 32_000 * 3])
    job(server, small)
    subprocess.run(["mount", "-o", "remount,sync", str(mounted)], check=True)
    os.truncate(image, 0)
    must_serve_from_memory(server, small)
    answers = [server.convert(large), server.ask(JOBS, small)]
    for answer in answers:
        if answer.status not in (200, 202):  # what the kernel has cached may do
            must_say_why(answer, "error", "cannot", "i/o", "space")
    must_serve_from_memory(server, small)
    watch = Stopwatch()
    server.stop()
    assert watch.seconds < 40
