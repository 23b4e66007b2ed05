"""The guard against the real kernel: pools of toys in real memory cgroups."""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cgroup import MB, MemoryCgroup, memory_cgroup, slow_disk, swap_file
from neighbour import neighbour
from ordinary_user import ORDINARY_USER, entrance
from remote_pool import remote_pool
from running import PATIENCE, until

from supervisor import Cause


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


# --- leaks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [200 * MB, None], ids=["slow", "as fast as it goes"])
def test_a_leak_is_ended_before_the_limit_and_the_others_are_undisturbed(rate: int | None) -> None:
    with memory_cgroup(500 * MB) as group, remote_pool(group.enter) as pool:
        other = pool.ask(run={"do": "steps", "count": 200, "step_s": 0.01})
        refused = pool.run(do="leak", bytes=5000 * MB, rate=rate)
        assert refused["error"] == "too_large_for_server"
        assert refused["message"].count("was ended by the guard: it had grown by") == 2
        assert "result" in pool.answer(other)
        status = pool.status()
        assert status["deaths"] == {"guard": 2}
        assert [death["moments"] > 0 for death in status["last_deaths"]] == [True, True]
        killed = pool.event("guard.worker_ended")
        assert "MB are allowed" in killed["reason"]
        exited = pool.event("worker.exited", pid=killed["pid"], cause="guard")
        assert exited["growth_bytes"] > exited["unreclaimable_bytes"] / 2 > 0
        until(lambda: pool.status()["states"] == ["idle", "idle"])
        until(lambda: pool.status()["level"] == "normal")
        assert pool.run(do="echo")["result"]
        assert group.oom_kills() == 0


def test_one_job_that_leaks_once_is_answered_by_another_worker(tmp_path: Path) -> None:
    with memory_cgroup(500 * MB) as group, remote_pool(group.enter) as pool:
        # More than the hard budget, and kept until it is ended.
        answer = pool.run(
            do="once", marker=str(tmp_path / "m"), how="grow", bytes=320 * MB, then_s=10
        )
        assert answer["result"]["pid"]
        assert pool.status()["deaths"] == {"guard": 1}
        assert group.oom_kills() == 0


def test_a_worker_over_its_hard_budget_is_ended_though_memory_is_plenty() -> None:
    with remote_pool(workers=1, budget=40 * MB) as pool:
        refused = pool.run(do="leak", bytes=2000 * MB)
        assert refused["error"] == "too_large_for_server"
        assert pool.status()["level"] == "normal"
        assert "60 MB are allowed (1.5 times workers.budget)" in refused["message"]


def test_a_worker_over_its_rss_limit_is_ended() -> None:
    with remote_pool(workers=1, max_rss=150 * MB, budget=5000 * MB) as pool:
        refused = pool.run(do="leak", bytes=2000 * MB)
        assert "(debug.max_rss)" in refused["message"]


def test_growth_is_what_is_its_own_even_if_it_was_shared_at_birth() -> None:
    """A page that a worker writes to becomes its own, though its RSS stays the same."""
    with remote_pool(workers=2, load_bytes=300 * MB) as pool:
        pid = pool.run(do="rewrite")["result"]["pid"]
        (other,) = {worker.pid for worker in pool.workers()} - {pid}
        os.kill(other, 9)  # when processes come or go, all are read exactly
        until(lambda: pool.status()["growth"][str(pid)] > 250 * MB, 30)


def test_the_set_limit_counts_what_is_shared_once() -> None:
    with remote_pool(workers=2, load_bytes=200 * MB, limit=2000 * MB) as pool:
        # Three processes have it, and a Python and an allocator each.
        until(lambda: any(pool.status()["growth"].values()), 30)
        assert 200 * MB < pool.status()["used"] < 400 * MB
        assert 1500 * MB < pool.status()["left"] < 1800 * MB


def test_a_worker_that_is_being_born_holds_nothing_of_its_own() -> None:
    # Long enough that it is looked at before it has said that it is there.
    with remote_pool(workers=1, load_bytes=300 * MB, born_s=1.5, limit=600 * MB) as pool:
        assert pool.run(do="echo")["result"]
        until(lambda: pool.status()["left"] > 100 * MB)
        assert pool.status()["deaths"] == {}
        told = {event["event"] for event in pool.events}
        assert not told & {"guard.level_changed", "worker.recycled", "guard.worker_ended"}


def test_the_set_limit_is_kept_without_any_cgroup() -> None:
    with remote_pool(limit=400 * MB, budget=1000 * MB) as pool:
        refused = pool.run(do="leak", bytes=2000 * MB, rate=300 * MB)
        assert refused["error"] == "memory_pressure"
        assert "were left of 400 MB" in refused["message"]
        exited = pool.event("worker.exited", cause="guard")
        assert exited["growth_bytes"] < 400 * MB


# --- others in the cgroup -------------------------------------------------------------------------


def test_a_neighbour_that_takes_memory_away_and_gives_it_back(tmp_path: Path) -> None:
    with (
        memory_cgroup(400 * MB) as group,
        remote_pool(group.enter) as pool,
        neighbour(group.enter) as other,
    ):
        # Two are worked on until the test says so, four wait.
        go = tmp_path / "go"
        held = [pool.ask(run={"do": "until", "file": str(go)}, spool=500_000) for _ in range(2)]
        waiting = [pool.ask(run={"do": "echo"}, spool=500_000) for _ in range(4)]
        until(lambda: pool.status()["spools"][0] >= 2_500_000)
        other.take(1)  # it has started: its interpreter has its memory
        before = pool.status()["left"]
        other.take(before // 2)
        # Not a look that fell into the taking.
        until(lambda: pool.status()["left"] < before - before // 2 + 3 * MB)
        other.take(pool.status()["left"] - 22 * MB)
        pool.event("guard.level_changed", now="pressure")
        # Waiting inputs move to disk; an input that is being worked on is mapped and stays.
        until(lambda: pool.status()["spools"][1] >= 2_000_000)
        late = pool.ask(run={"do": "echo"})
        other.take(pool.status()["left"] - 5 * MB)
        pool.event("guard.level_changed", now="critical")
        refused = pool.run(do="echo")
        assert refused["error"] == "memory_pressure"
        assert refused["retry_after_s"] >= 1
        other.give_back()
        until(lambda: pool.status()["level"] == "normal", 20)
        go.touch()
        for number in [*held, *waiting, late]:
            assert "result" in pool.answer(number, 60)
        assert group.oom_kills() == 0
        assert "worker.exited" not in {event["event"] for event in pool.events}


HOLD = """
import sys, time
held = []
for _ in range(int(sys.argv[1]) >> 20):
    held.append(bytearray(b"x") * (1 << 20))
    time.sleep(0.002)
time.sleep(30)
"""

HAVE_ANOTHER = """
import subprocess, sys
other = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]])
sys.exit(128 - min(0, other.wait()))
"""
"""Program that acts like `modelserver models prepare`: a process below it takes the memory."""


@pytest.mark.parametrize("below", [False, True], ids=["itself", "by one below it"])
def test_a_helper_that_takes_the_memory_is_ended_and_no_worker(below: bool) -> None:
    """Take memory as the preparation of a model in the background does: it can be done later."""
    with memory_cgroup(400 * MB) as group, remote_pool(group.enter) as pool:
        work = pool.ask(run={"do": "steps", "count": 100, "step_s": 0.02})
        size = str(310 * MB)
        asked = [HAVE_ANOTHER, HOLD, size] if below else [HOLD, size]
        assert pool.answer(pool.ask(helper=asked[0], arguments=asked[1:]))["result"] == "guard"
        assert "result" in pool.answer(work)
        ended = pool.event("guard.helper_ended")
        assert "and it held" in ended["reason"]
        exited = pool.event("helper.exited", role="errand", cause="guard")
        assert exited["reason"] == ended["reason"]
        assert (exited["pid"] == ended["pid"]) is not below
        status = pool.status()
        assert (status["deaths"], status["helpers"]) == ({}, {"guard": 1})
        assert "errand process" in status["last_deaths"][0]["sentence"]
        assert group.oom_kills() == 0


GROW_WHEN_TOLD = """
import os, sys, time
open("/proc/self/oom_score_adj", "w").write("1000")
print("ready", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.005)
held = bytearray(b"x") * int(sys.argv[2])
time.sleep(30)
"""


def test_a_helper_that_the_kernel_takes_is_named_so_and_no_worker_is(tmp_path: Path) -> None:
    with memory_cgroup(500 * MB) as group, remote_pool(group.enter) as pool:
        go = str(tmp_path / "go")
        errand = pool.ask(helper=HAVE_ANOTHER, arguments=[GROW_WHEN_TOLD, go, str(90 * MB)])
        pool.event("said", line="ready")
        until(lambda: len(pool.answer(pool.ask(moments=True))["result"][-1]["helpers"]) == 2)
        group.limit(group.usage() + 20 * MB)
        Path(go).touch()
        assert pool.answer(errand)["result"] == "kernel_oom"
        group.limit(500 * MB)
        until(lambda: pool.status()["states"] == ["idle", "idle"])
        status = pool.status()
        assert status["helpers"] == {"kernel_oom": 1}
        # Each of the kernel's kills is ascribed once: another's SIGKILL is not taken for one.
        assert group.oom_kills() == 1 + status["deaths"].get("kernel_oom", 0)
        pid = status["pids"][0]
        os.kill(pid, 9)
        assert pool.event("worker.exited", pid=pid)["cause"] == "killed"


def test_a_model_that_does_not_fit_is_ended_while_it_loads() -> None:
    with memory_cgroup(300 * MB) as group:
        with remote_pool(group.enter, load_bytes=900 * MB, wait=False) as pool:
            reason = pool.event("model.start_failed")["reason"]
            assert re.search(r"\d+ [kM]B were left of 300 MB when it had loaded \d+ MB", reason)
            pool.event("fork_server.exited", cause="guard")
            assert pool.run(do="echo")["error"] == "not_ready"
            # An ended process is looked at once more before it is forgotten, and counted as nothing
            # else.
            pool.event("model.start_failed", attempt=3)
            assert "guard.helper_ended" not in {event["event"] for event in pool.events}
        assert group.oom_kills() == 0


# --- starved --------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a file of 220 MB on disk, and nothing of it in the file cache."""
    file = tmp_path / "graph"
    with file.open("wb") as out:
        for _ in range(220):
            out.write(bytes(MB))
        os.fsync(out.fileno())
        os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return file


def test_a_mapped_file_larger_than_the_memory_is_starved_and_no_worker_is_fat(file: Path) -> None:
    with memory_cgroup(130 * MB) as group, remote_pool(group.enter) as pool:
        seconds = 8 * PATIENCE
        wanderers = [
            pool.ask(run={"do": "wander", "file": str(file), "s": seconds}) for _ in range(2)
        ]
        starved = pool.event("guard.starved", 8)
        assert starved["lost_share"] >= 0.1
        assert starved["faults_per_s"] >= 1000 / PATIENCE
        assert starved["refaults_per_s"] >= 1000 / PATIENCE
        assert pool.status()["level"] == "normal"
        assert max(pool.status()["growth"].values()) < 20 * MB
        for number in wanderers:
            assert "result" in pool.answer(number)
        assert group.oom_kills() == 0
        assert not [e for e in pool.events if e["event"] in ("worker.exited", "guard.worker_ended")]


def test_a_slow_disk_starves_a_model_by_few_faults(file: Path) -> None:
    """Allow as many reads per second as the disks of small cloud machines, or fewer."""

    def enter() -> None:
        group.enter()
        disk.enter()

    with slow_disk(file) as disk, memory_cgroup(100 * MB) as group, remote_pool(enter) as pool:
        # Read through once, so that pages read from now on were in memory before.
        subprocess.run(["cat", file], stdout=subprocess.DEVNULL, check=True, preexec_fn=group.enter)
        disk.reads_per_s(300)
        wanderers = [pool.ask(run={"do": "wander", "file": str(file), "s": 6}) for _ in range(2)]
        starved = pool.event("guard.starved", 10)
        # Reported while it lasts, though no worker had work before, and few readings were made.
        assert not [e for e in pool.events if e["event"] == "job.done"]
        assert starved["lost_share"] > 0.3
        assert 20 < starved["faults_per_s"] < 400
        disk.reads_per_s(100_000)
        for number in wanderers:
            assert "result" in pool.answer(number)
        assert group.oom_kills() == 0


# --- the kernel -----------------------------------------------------------------------------------


@pytest.fixture
def squeezed(tmp_path: Path) -> Iterator[MemoryCgroup]:
    with memory_cgroup(500 * MB) as group:
        yield group


def kill_by_kernel(group: MemoryCgroup, tmp_path: Path, user: int | None = None) -> None:
    enter, python = entrance(group, user)
    tmp_path.chmod(0o777)
    with remote_pool(enter, python=python) as pool:
        first = pool.status()["pids"]
        group.limit(group.usage() + 3 * MB)
        marker = str(tmp_path / "marker")
        job = pool.ask(run={"do": "once", "marker": marker, "how": "grow", "bytes": 90 * MB})
        exited = pool.event("worker.exited")
        group.limit(500 * MB)
        assert exited["cause"] == "kernel_oom"
        assert exited["pid"] in first
        assert pool.answer(job)["result"]["pid"] != exited["pid"]
        assert group.oom_kills() == 1
        (death,) = pool.status()["last_deaths"]
        assert "killed by the kernel, out of memory" in death["sentence"]
        assert death["moments"] > 0
        until(lambda: pool.status()["states"] == ["idle", "idle"])


def test_a_worker_that_the_kernel_kills_is_named_so_and_replaced(
    squeezed: MemoryCgroup, tmp_path: Path
) -> None:
    kill_by_kernel(squeezed, tmp_path)


def test_an_ordinary_user_is_told_the_same(squeezed: MemoryCgroup, tmp_path: Path) -> None:
    """Run without the kernel's log, and without the right to lower an OOM score."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    for parent in tmp_path.parents:
        if Path(tempfile.gettempdir()) in parent.parents:
            parent.chmod(0o755)
    kill_by_kernel(squeezed, tmp_path, ORDINARY_USER)


def test_an_operators_kill_is_not_called_the_kernels() -> None:
    with memory_cgroup(500 * MB) as group, remote_pool(group.enter) as pool:
        job = pool.ask(run={"do": "steps", "count": 50, "step_s": 0.02})
        busy = until(lambda: "busy" in (now := pool.status())["states"] and now)
        pid = busy["pids"][busy["states"].index("busy")]
        os.kill(pid, 9)
        assert pool.event("worker.exited", pid=pid)["cause"] == "killed"
        assert pool.answer(job)["result"]["pid"] != pid


def test_a_budget_that_is_nearly_the_same_is_logged_once() -> None:
    with memory_cgroup(500 * MB) as group, remote_pool(group.enter) as pool:
        used = {pool.status()["budget"]}

        def another() -> bool:
            used.add(pool.status()["budget"])
            return len(used) > before

        while (before := len(used)) < 8:
            idle = until(lambda: (now := pool.status())["states"] == ["idle"] * 2 and now)
            os.kill(idle["pids"][0], 9)
            pool.event("worker.exited", pid=idle["pids"][0])
            until(another)
        logged = [e["budget_bytes"] for e in pool.events if e["event"] == "guard.budget_found"]
        assert max(used) - min(used) < min(used) / 8
        assert len(logged) == 1


def test_the_kernel_would_take_a_worker_first_and_the_supervisor_last() -> None:
    with remote_pool() as pool:
        supervisor = oom_score(pool.process.pid)
        (worker, *_) = pool.workers()
        server = oom_score(os.getpgid(worker.pid))
        assert supervisor == oom_score(os.getpid())
        assert min(1000, supervisor + 200) == server
        assert min(1000, supervisor + 900) == oom_score(worker.pid)


# --- swap -----------------------------------------------------------------------------------------


@pytest.fixture
def swap(tmp_path: Path) -> Iterator[None]:
    with swap_file(tmp_path / "swap", 256 * MB):
        yield


def test_what_is_swapped_out_still_counts(swap: None) -> None:
    """Check that the budget sees a leak that the kernel swaps out in a small cgroup instead of
    killing."""
    with memory_cgroup(200 * MB) as group, remote_pool(group.enter, budget=120 * MB) as pool:
        refused = pool.run(do="leak", bytes=1000 * MB, rate=200 * MB, timeout_s=60)
        assert refused["error"] in ("too_large_for_server", "memory_pressure")
        assert pool.status()["deaths"]["guard"] == 2
        assert group.oom_kills() == 0


# --- cost -----------------------------------------------------------------------------------------


@pytest.mark.skipif(PATIENCE > 1, reason="what it costs on an emulated processor says nothing")
def test_watching_costs_next_to_nothing() -> None:
    """Check that it takes two hundredths of a core in that time at most; the benchmark has the
    target."""
    with remote_pool(workers=4, load_bytes=300 * MB) as pool:
        process = psutil.Process(pool.process.pid)
        until(lambda: len(pool.status()["pids"]) == 4)
        started, before = time.monotonic(), sum(process.cpu_times()[:2])
        pool.run(do="steps", count=16, step_s=0.25)  # each step is a message, which costs too
        cost = sum(process.cpu_times()[:2]) - before
        assert cost / (time.monotonic() - started) < 0.02


def test_causes_have_the_names_that_logs_and_metrics_show() -> None:
    assert {cause.value for cause in Cause} >= {
        "kernel_oom",
        "guard",
        "hang",
        "crash",
        "exited",
        "killed",
        "terminated",
    }
