"""Completion scripts and the manual page, as the command prints them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).parent / "modelserver"


def output(*arguments: str, **environment: str) -> str:
    return subprocess.run(
        [PROGRAM, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_bash_completes_commands_with_the_script() -> None:
    script = output("completion", "bash")
    asked = """
PATH=$DIRECTORY:$PATH; COMP_WORDS=(modelserver mod); COMP_CWORD=1
_modelserver_completion modelserver; echo "${COMPREPLY[*]}"
"""
    done = subprocess.run(
        ["bash", "-c", script + asked],
        env={**os.environ, "DIRECTORY": str(PROGRAM.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["models"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_one(shell: str) -> None:
    assert "_MODELSERVER_COMPLETE" in output("completion", shell)


def test_the_manual_has_the_programs_name_however_it_is_started() -> None:
    command = [sys.executable, "-m", "modelserver", "manual"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == output("manual")


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_manual_has_every_command_and_roff_accepts_it() -> None:
    page = output("manual")
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-c"],
        input=page,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    text = re.sub(".\b", "", done.stdout)  # bold letters are printed twice
    for command in ("serve", "models pull", "keys add", "transcribe", "doctor"):
        assert f"modelserver {command} [OPTIONS]" in text
    assert "--config FILE" in text


@pytest.mark.parametrize(
    "arguments",
    [
        *(["keys", "--help"], ["status", "--help"], ["top", "--help"], ["upgrade", "--help"]),
        *(["models", "prepare", "--help"], ["models", "inspect", "--help"]),
    ],
    ids=" ".join,
)
def test_a_command_imports_no_other(arguments: list[str]) -> None:
    """Check that completing a word, making a key or looking at a server imports no server."""
    program = """
import sys
from modelserver.cli import main
main(sys.argv[1:], standalone_mode=False)
print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    imported = set(done.stderr.split())
    assert f"modelserver.cli.{arguments[0]}" in imported
    assert imported.isdisjoint(
        {"modelserver.cli.serve", "modelserver.server", "modelserver.serving.service", "aiohttp"}
    )
