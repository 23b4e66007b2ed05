"""Readings from the kernel: real files of this machine, and recorded trees of cgroups that it does
not have."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from cgroup import MB, memory_cgroup
from running import until

from supervisor.deaths.kernel_oom import (
    KernelLog,
    OomCounter,
    OomEvidence,
    oom_groups,
    parse_record,
)
from supervisor.guard.observer import inherited
from supervisor.readings.memory import MemoryReader, available_memory
from supervisor.readings.pressure import read_pressure
from supervisor.readings.processes import (
    descendants,
    quick_look,
    read_precise,
    read_process,
    read_ran,
)
from supervisor.readings.resources import read_descriptors, read_disk, read_processes

# --- processes ------------------------------------------------------------------------------------


def test_a_process_is_read_as_psutil_reads_it() -> None:
    me = os.getpid()
    ours, theirs = read_process(me), psutil.Process().memory_info()
    assert ours is not None
    assert ours.pid == me
    assert abs(ours.rss - theirs.rss) < 4 * MB
    assert ours.unreclaimable == ours.anonymous + ours.swap
    assert ours.mapped > 0
    assert ours.major_faults >= 0
    exact = read_precise(me)
    assert exact is not None
    assert 0 < exact.private_anonymous <= ours.unreclaimable + MB


def test_the_quick_look_agrees_with_the_whole_reading() -> None:
    fd = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        quick, whole = quick_look(fd), read_process(os.getpid())
        assert quick is not None
        assert whole is not None
        assert abs(quick[0] - whole.rss) < MB
        assert abs(quick[1] - whole.anonymous) < MB
    finally:
        os.close(fd)


def test_a_process_that_sleeps_has_not_run_and_one_that_computes_has() -> None:
    programs = ["import time; print(flush=True); time.sleep(60)", "while True: pass"]
    children = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        for program in programs
    ]
    try:
        assert children[0].stdout is not None
        children[0].stdout.readline()  # it has begun
        until(lambda: (read_ran(children[1].pid) or 0) > 0.5)
        sleeping, computing = (read_ran(child.pid) for child in children)
        assert sleeping is not None
        assert computing is not None
        time.sleep(2.0)
        assert (read_ran(children[0].pid) or 0) - sleeping < 0.1
        # Run or waited to be: all of the time, whatever else uses the processor. (The kernel adds a
        # wait when it ends: the last one may be missing.)
        assert (read_ran(children[1].pid) or 0) - computing > 1.6
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert read_ran(children[0].pid) is None


def test_what_is_not_there_is_not_read() -> None:
    child = subprocess.Popen(["sleep", "60"])
    fd = os.open(f"/proc/{child.pid}/statm", os.O_RDONLY)
    child.kill()
    until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert read_process(child.pid) is None
    child.wait()
    assert read_process(child.pid) is None
    assert read_precise(child.pid) is None
    assert quick_look(fd) is None
    os.close(fd)


def test_children_of_children_are_found() -> None:
    script = "import subprocess,sys; subprocess.Popen(['sleep','60']); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as child:
        below = until(lambda: found if len(found := descendants(child.pid)) == 1 else None)
        assert {child.pid, *below} <= set(descendants(os.getpid()))
        assert not {child.pid, *below} & set(descendants(os.getpid(), [child.pid]))
        os.kill(below[0], 9)


# --- pressure -------------------------------------------------------------------------------------


def test_pressure_is_parsed(tmp_path: Path) -> None:
    file = tmp_path / "memory.pressure"
    file.write_text(
        "some avg10=12.50 avg60=3.00 avg300=0.70 total=119108\n"
        "full avg10=4.20 avg60=0.00 avg300=0.00 total=108123\n"
    )
    pressure = read_pressure(file)
    assert pressure is not None
    assert (pressure.some_avg10, pressure.some_total_us) == (12.5, 119108)
    assert read_pressure(tmp_path / "none") is None


def test_this_kernel_offers_pressure() -> None:
    assert read_pressure() is not None


# --- cgroups --------------------------------------------------------------------------------------

STAT = "anon 70000000\nfile 30000000\ninactive_file 20000000\nactive_file 5000000\n"
STAT_V1 = """cache 60000000
inactive_file 1
active_file 1
workingset_refault_file 1
total_cache 60000000
total_inactive_file 40000000
total_active_file 10000000
total_workingset_refault_file 1234
"""


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_version_2_is_read_along_the_whole_path(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "memory.stat": STAT,  # the root has no memory.current
            "system.slice/memory.current": "900000000\n",
            "system.slice/memory.max": "max\n",
            "system.slice/memory.high": "max\n",
            "system.slice/memory.stat": STAT,
            "system.slice/m.service/memory.current": "100000000\n",
            "system.slice/m.service/memory.max": "500000000\n",
            "system.slice/m.service/memory.high": "400000000\n",
            "system.slice/m.service/memory.stat": STAT + "workingset_refault_file 77\n",
            "system.slice/m.service/memory.pressure": "some avg10=5.00 avg60=0 avg300=0 total=9\n",
        },
    )
    parent, own = MemoryReader(root, {"": "/system.slice/m.service"}).read().cgroups
    assert parent.limit is None
    assert (own.limit, own.set_by) == (400_000_000, "memory.high")
    assert own.used == 75_000_000
    assert own.cache == 25_000_000
    assert own.refaults == 77
    assert own.pressure is not None
    assert own.pressure.some_avg10 == 5.0


def test_a_limit_on_the_parent_alone_counts(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "a/memory.current": "900000000",
            "a/memory.max": "1000000000",
            "a/memory.stat": STAT,
            "a/b/memory.current": "1000",
            "a/b/memory.max": "max",
            "a/b/memory.stat": "",
        },
    )
    reading = MemoryReader(root, {"": "/a/b"}).read()
    machine, parent = reading.bounds
    assert machine.name == "the machine"
    assert parent.name == f"cgroup {root}/a (memory.max)"
    assert parent.headroom == 125_000_000


def test_version_1_limits_are_hierarchical(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "memory/memory.usage_in_bytes": "5",
            "memory/memory.limit_in_bytes": "9223372036854771712",
            "memory/docker/x/memory.usage_in_bytes": "100000000",
            "memory/docker/x/memory.limit_in_bytes": "300000000",
            "memory/docker/x/memory.stat": STAT_V1,
        },
    )
    top, own = MemoryReader(root, {"memory": "/docker/x"}).read().cgroups
    assert top.limit is None
    assert (own.limit, own.used, own.refaults) == (300_000_000, 50_000_000, 1234)


def test_an_older_kernel_counts_refaults_under_another_name(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "memory/memory.usage_in_bytes": "100000000",
            "memory/memory.limit_in_bytes": "300000000",
            "memory/memory.stat": "total_cache 1\ntotal_workingset_refault 55\n",
        },
    )
    (own,) = MemoryReader(root, {"memory": "/"}).read().cgroups
    assert own.refaults == 55


def test_inside_a_container_the_root_is_ones_own(tmp_path: Path) -> None:
    """Check a container, whose group's path is the host's, while only its own group is mounted."""
    root = tree(
        tmp_path,
        {
            "memory/memory.usage_in_bytes": "100000000",
            "memory/memory.limit_in_bytes": "300000000",
            "memory/memory.stat": STAT_V1,
            "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 3\n",
        },
    )
    (own,) = MemoryReader(root, {"memory": "/docker/0123"}).read().cgroups
    assert own.limit == 300_000_000


def test_a_machine_without_cgroups_is_bounded_by_itself(tmp_path: Path) -> None:
    reading = MemoryReader(tmp_path, {}).read()
    (machine,) = reading.bounds
    assert machine.limit == psutil.virtual_memory().total
    assert reading.refaults >= 0


def test_a_real_cgroup_is_read_from_inside() -> None:
    script = (
        "from supervisor import available_memory;"
        "b = bytearray(100_000_000); b[::4096] = b'x' * len(b[::4096]);"
        "print(available_memory())"
    )
    with memory_cgroup(400 * MB) as group:
        run = subprocess.run(
            [sys.executable, "-c", script],
            preexec_fn=group.enter,
            capture_output=True,
            text=True,
            check=True,
        )
        assert 200 * MB < int(run.stdout) < 300 * MB
    assert available_memory() > 400 * MB


# --- the kernel's OOM killer ----------------------------------------------------------------------


def test_the_kernels_report_is_parsed() -> None:
    text = (
        "3,1180,10828416150,-;Memory cgroup out of memory: Killed process 18334 (python3) "
        "total-vm:1008444kB, anon-rss:261028kB, file-rss:35472kB, shmem-rss:0kB, UID:0 "
        "pgtables:820kB oom_score_adj:0\n"
    )
    report = parse_record(text)
    assert report is not None
    assert (report.pid, report.command) == (18334, "python3")
    assert report.anonymous == 261_028 * 1024
    assert report.in_cgroup
    assert report.seconds == pytest.approx(10828.416)
    assert report.sentence == "process 18334 (python3) holding 267 MB, at a memory cgroup's limit"
    assert parse_record("6,1,2,-;python3[1]: segfault at 0") is None
    whole = parse_record("3,1,5,-;Out of memory: Killed process 7 (java) total-vm:1kB")
    assert whole is not None
    assert not whole.in_cgroup
    assert whole.anonymous is None


def test_counters_of_both_versions_are_read(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "s/m/memory.events": "low 0\nhigh 0\nmax 4\noom 4\noom_kill 2\noom_group_kill 0\n",
            "memory/d/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
        },
    )
    assert OomCounter(root, {"": "/s/m"}).read() == 2
    assert OomCounter(root, {"memory": "/d"}).read() == 5
    assert OomCounter(root, {}).read() >= 0  # the machine's own, from /proc/vmstat


EAT = """
import sys
sys.stdin.readline()
blocks = []
while True:
    b = bytearray(1 << 20); b[::4096] = b"x" * 256; blocks.append(b)
"""


def eater(group_enter: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", EAT],
        stdin=subprocess.PIPE,
        text=True,
        preexec_fn=group_enter,  # type: ignore[arg-type]
    )


def test_the_kernels_log_names_the_process_that_it_killed() -> None:
    log = KernelLog()
    if not log.readable:
        pytest.skip("the kernel's log cannot be read here")
    with memory_cgroup(50 * MB) as group, eater(group.enter) as child:
        assert log.new_reports() == []
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
        assert child.wait() == -9
        reports = until(log.new_reports)
    assert [report.pid for report in reports] == [child.pid]
    assert reports[0].in_cgroup
    log.close()


WITNESS = """
import os, signal, subprocess, sys
from supervisor.deaths.kernel_oom import KernelLog, OomEvidence
blind = sys.argv[1] == "blind"
if blind:
    KernelLog.new_reports = lambda self: []
evidence = OomEvidence()
def run(kill):
    child = subprocess.Popen([sys.executable, "-c", sys.argv[2]], stdin=subprocess.PIPE)
    if kill:
        child.kill()
    else:
        child.stdin.write(b"go\\n"); child.stdin.flush()
    assert child.wait() == -9
    return child.pid
first = run(kill=False)
print(evidence.killed(first), evidence.killed(first))
print(evidence.killed(run(kill=True)))
"""


@pytest.mark.parametrize("sight", ["seeing", "blind"])
def test_the_evidence_tells_the_kernels_kill_from_anybody_elses(sight: str) -> None:
    """Use the log, and if that is not readable the counter alone; each kill counts once."""
    with memory_cgroup(80 * MB) as group:
        run = subprocess.run(
            [sys.executable, "-c", WITNESS, sight, EAT],
            preexec_fn=group.enter,
            capture_output=True,
            text=True,
            check=True,
        )
        assert group.oom_kills() == 1
    assert run.stdout.split() == ["True", "False", "False"]


def test_what_we_killed_is_not_blamed_on_the_kernel_for_somebody_elses_death() -> None:
    evidence = OomEvidence()
    evidence._unascribed.append(time.monotonic())  # a kill that the kernel has not named
    assert not evidence.killed(4711, by_log_only=True)
    assert evidence.killed(4712)
    assert not evidence.killed(4713)
    evidence.close()


# --- other resources ------------------------------------------------------------------------------


def test_disk_descriptors_and_processes_are_counted(small_disk: Path, tmp_path: Path) -> None:
    disk = read_disk(small_disk)
    assert disk is not None
    assert disk.limit == 1024 * 1024
    (small_disk / "file").write_bytes(b"x" * 600_000)
    fuller = read_disk(small_disk)
    assert fuller is not None
    assert disk.free - fuller.free >= 600_000
    assert read_disk(tmp_path / "none") is None
    before = read_descriptors()
    fds = [os.dup(0) for _ in range(10)]
    after = read_descriptors()
    for fd in fds:
        os.close(fd)
    assert after.used - before.used == 10
    assert after.free == after.limit - after.used
    processes = read_processes()
    assert processes is None or processes.used > 0


def test_a_kill_while_nobody_of_ours_was_dying_was_somebody_elses() -> None:
    """A health check that the kernel has killed, and a worker that an operator kills a second
    later."""
    with subprocess.Popen(["sleep", "100"]) as worker:
        evidence = OomEvidence()
        evidence._log.close()  # as inside a container
        evidence.ours = lambda: [worker.pid]
        evidence._unascribed.append(time.monotonic())
        evidence.look()
        assert evidence._unascribed  # the kernel counts a moment before it kills
        time.sleep(0.1)
        evidence.look()
        assert not evidence._unascribed
        worker.kill()
        assert not evidence.killed(worker.pid)
        evidence.close()


def test_a_kill_while_one_of_ours_is_dying_is_its_own() -> None:
    with subprocess.Popen(["sleep", "100"]) as worker:
        evidence = OomEvidence()
        evidence._log.close()
        evidence.ours = lambda: [worker.pid]
        evidence._unascribed.append(time.monotonic() - 0.1)
        worker.kill()
        evidence.look()
        assert evidence.killed(worker.pid)
        evidence.close()


def test_cgroups_that_the_kernel_ends_as_a_whole_are_found(tmp_path: Path) -> None:
    for name, text in (("s", "0\n"), ("s/m", "1\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "memory.oom.group").write_text(text)
    assert oom_groups(tmp_path, {"": "/s/m"}) == [tmp_path / "s/m"]
    assert oom_groups(tmp_path, {"": "/s"}) == []


def test_a_worker_that_is_not_announced_yet_holds_nothing_of_its_own() -> None:
    held = {1: 50_000_000, 10: 160_000_000, 11: 158_000_000, 12: 900_000_000}
    assert inherited(11, 10, held) == held[11]
    assert inherited(12, 10, held) == held[10]  # it holds more than its fork server ever had
    assert inherited(1, 0, held) == 0
    assert inherited(11, 9, held) == held[11]  # its fork server has just ended
