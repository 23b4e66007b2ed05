"""Commands and engines of modelserver-tools: with it, and without it."""

import os
import subprocess
import sys
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from places import ROOT


@pytest.fixture
def without_tools(tmp_path: Path) -> dict[str, str]:
    """An environment with every installed distribution but modelserver-tools."""
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        if not installed.name.startswith(("modelserver_tools", "_modelserver_tools")):
            (tmp_path / installed.name).symlink_to(installed)
    return os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command; without `site`, so that PYTHONPATH is all there is."""
    command = [sys.executable, "-S", "-m", "modelserver", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["plan", "--rate", "2"], "`plan`"),
        (["evaluate", "--help"], "`evaluate`"),
        (["transcribe", "--on", "ray", "a.wav"], "--on ray"),
    ],
)
def test_without_the_tools_one_sentence_says_how_to_install_them(
    without_tools: dict[str, str], tmp_path: Path, arguments: list[str], what: str
) -> None:
    (tmp_path / "a.wav").touch()
    done = run(without_tools, *(str(tmp_path / a) if a == "a.wav" else a for a in arguments))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert what in line
    assert "in a checkout of modelserver, run" in line
    assert "pip install" in line
    assert "./tools" in line


def test_help_lists_the_commands_of_the_tools_either_way(without_tools: dict[str, str]) -> None:
    missing = run(without_tools, "--help")
    assert missing.returncode == 0, missing.stderr
    assert missing.stdout.count("part of modelserver-tools") == 2
    there = subprocess.run(
        [sys.executable, "-m", "modelserver", "--help"], capture_output=True, text=True, check=True
    )
    assert "part of modelserver-tools" not in there.stdout


def test_tools_without_a_package_that_they_need_leave_the_other_commands_alone(
    without_tools: dict[str, str], tmp_path: Path
) -> None:
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        if installed.name.startswith(("modelserver_tools", "_modelserver_tools")):
            (tmp_path / installed.name).symlink_to(installed)
        elif installed.name.startswith("simpy"):
            (tmp_path / installed.name).unlink()
    environment = without_tools | {"PYTHONPATH": f"{without_tools['PYTHONPATH']}:{ROOT / 'tools'}"}
    helped = run(environment, "--help")
    assert helped.returncode == 0, helped.stderr
    planned = run(environment, "plan", "--rate", "2")
    assert planned.returncode == 1
    assert "./tools" in planned.stderr
    assert "Traceback" not in planned.stderr


def test_each_entry_point_of_a_command_is_one() -> None:
    commands = entry_points(group="modelserver.commands")
    assert {point.name: point.load().name for point in commands} == {
        "evaluate": "evaluate",
        "plan": "plan",
    }
