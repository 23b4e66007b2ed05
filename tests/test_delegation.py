"""The cgroup of our own in one that was handed over, on recorded file trees; `test_alarms.py` has
it with the kernel, where that has version 2."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from cgroup import hand_over
from ordinary_user import NOBODY

from supervisor.readings.delegation import NAME, settle, settled
from supervisor.readings.memory import MemoryReader, limit_files

IN_UNIT = {"": "/system.slice/m.service"}
IN_OURS = {"": f"/system.slice/m.service/{NAME}"}


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Of a service that is alone in its cgroup."""
    return in_unit(tmp_path)


def in_unit(root: Path) -> Path:
    directory = root / "system.slice/m.service"
    directory.mkdir(parents=True)
    (directory / "cgroup.controllers").write_text("cpu memory pids\n")
    (directory / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (directory / "cgroup.subtree_control").write_text("")
    return directory


def test_one_that_was_handed_over_is_settled_in(tmp_path: Path, unit: Path) -> None:
    hand_over(unit)
    settle(tmp_path, IN_UNIT)
    ours = unit / NAME
    assert (ours / "cgroup.procs").read_text() == str(os.getpid())
    assert (unit / "cgroup.subtree_control").read_text() == "+memory"
    assert (ours / "memory.high").read_text() == "max"
    assert settled(tmp_path, IN_UNIT) is None  # nobody but the kernel says where this process is
    (ours / "cgroup.controllers").write_text("memory\n")
    assert settled(tmp_path, IN_OURS) == ours
    settle(tmp_path, IN_OURS)
    assert not (ours / NAME).exists()


def test_an_ordinary_user_needs_no_mark_but_to_own_it() -> None:
    # Not below pytest's own directories, which are for root alone.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        root = Path(directory)
        unit = in_unit(root)
        for path in (root, unit.parent, unit, *unit.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        program = (
            "import encodings.ascii, os, sys; from pathlib import Path\n"
            "from supervisor.readings.delegation import settle\n"
            "os.setresgid(*[int(sys.argv[3])] * 3); os.setresuid(*[int(sys.argv[3])] * 3)\n"
            "Path(sys.argv[2], 'cgroup.procs').write_text(f'{os.getpid()}\\n')\n"
            "settle(Path(sys.argv[1]), {'': '/system.slice/m.service'})\n"
        )
        command = [sys.executable, "-c", program, directory, str(unit), str(NOBODY)]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[1], timeout=60)
        assert (unit / NAME / "memory.high").read_text() == "max"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("", ""),  # not handed over
        ("cgroup.procs", "{pid}\n1\n"),  # somebody else is there
        ("cgroup.controllers", "cpu pids\n"),  # memory is version 1's
    ],
)
def test_any_other_is_left_alone(tmp_path: Path, unit: Path, file: str, text: str) -> None:
    if file:
        hand_over(unit)
        (unit / file).write_text(text.format(pid=os.getpid()))
    settle(tmp_path, IN_UNIT)
    assert not (unit / NAME).exists()
    assert (unit / "cgroup.subtree_control").read_text() == ""


def test_what_cannot_be_set_leaves_it_as_it_was(tmp_path: Path, unit: Path) -> None:
    hand_over(unit)
    (unit / NAME).mkdir()
    (unit / NAME / "cgroup.procs").mkdir()  # writing to it fails
    settle(tmp_path, IN_UNIT)
    assert (unit / "cgroup.subtree_control").read_text() == ""


def test_the_threshold_is_no_limit(tmp_path: Path, unit: Path) -> None:
    hand_over(unit)
    settle(tmp_path, IN_UNIT)
    ours = unit / NAME
    (ours / "cgroup.controllers").write_text("memory\n")
    for directory, high in ((unit, "400000000"), (ours, "100000000")):
        (directory / "memory.current").write_text("90000000")
        (directory / "memory.max").write_text("max")
        (directory / "memory.high").write_text(high)
    reading = MemoryReader(tmp_path, IN_OURS).read()
    assert [bound.limit for bound in reading.bounds[1:]] == [400_000_000]
    assert ours / "memory.high" not in limit_files(reading)
    assert unit / "memory.high" in limit_files(reading)
