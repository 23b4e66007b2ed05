"""A model is loaded whatever the working directory is, and nothing in it is run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import start_server


def run_there(directory: Path, program: str, *before: str) -> str:
    """Return the output of a program that is started in the directory, as an ordinary user."""
    prelude = "import os\n" + "".join(f"{line}\n" for line in before)
    done = subprocess.run(
        [sys.executable, "-P", "-c", prelude + program],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


PROGRAM = """
from models.vosk.mapping import _working_directory_kept
with _working_directory_kept():
    os.chdir("/tmp")
print(os.readlink("/proc/self/cwd"))
"""


def test_the_working_directory_is_the_one_before(tmp_path: Path) -> None:
    assert run_there(tmp_path, PROGRAM) == str(tmp_path)


def test_one_that_was_deleted_is_returned_to(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    assert run_there(gone, PROGRAM, "os.rmdir(os.getcwd())") == f"{gone} (deleted)"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_one_that_may_not_be_entered_is_left(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    said = run_there(
        private,
        PROGRAM,
        "import models.vosk.mapping, tempfile",
        "os.setgid(65534); os.setuid(65534)",
    )
    assert said == "/"


def test_nothing_in_it_is_run(tmp_path: Path, small_settings: dict[str, str]) -> None:
    for name in ("models.py", "supervisor/__init__.py", "modelserver/__init__.py"):
        trap = tmp_path / name
        trap.parent.mkdir(exist_ok=True)
        trap.write_text("raise SystemExit('a file in the working directory was run')\n")
    program = ("-P", "-m", "modelserver")
    with start_server(tmp_path, program=program, **small_settings) as server:
        server.wait_ready()
        assert server.events("model.loaded")[0]["details"]["graph"] == "mapped"
