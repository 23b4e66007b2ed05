"""Systems that the server does not run on: refused in a sentence."""

import subprocess
import sys

import pytest

AS_IF = """
import sys
sys.platform = sys.argv.pop(1)
for name in ("fcntl", "resource", "pwd", "grp", "termios", "uvloop"):  # not there, or not built
    sys.modules[name] = None
from modelserver.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("system", "where"), [("win32", "WSL"), ("darwin", "a virtual machine"), ("freebsd14", "image")]
)
@pytest.mark.parametrize("command", [(), ("serve",), ("models", "pull", "zh"), ("ready",)])
def test_another_system_is_refused(system: str, where: str, command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AS_IF, system, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: modelserver needs Linux, and this is {system}.")
    assert where in line
    assert "container image" in line
