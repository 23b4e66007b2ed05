"""`modelserver top`, on a terminal and without one."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from running import RunningServer, until

_WORKER_GONE_S = 5.0


class Terminal:
    """A program on a terminal of 100 columns; what it has drawn, as bytes."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.pid, self._terminal = pty.fork()
        if not self.pid:
            os.environ.update(environment, LINES="30", COLUMNS="100")
            os.execv(command[0], command)
        self.drawn = b""

    def read(self) -> bytes:
        """Return everything drawn so far."""
        while select.select([self._terminal], [], [], 0.02)[0]:
            try:
                self.drawn += os.read(self._terminal, 65536)
            except OSError:  # it has ended
                break
        return self.drawn

    def press(self, key: str) -> None:
        os.write(self._terminal, key.encode())

    def ended(self) -> int | None:
        """Return its exit status; None if it has not ended."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._terminal)


def _command(server: RunningServer, *flags: str) -> list[str]:
    command = [sys.executable, "-m", "modelserver", "top", "--admin-listen"]
    return [*command, f"unix:{server.admin}", *flags]


@pytest.fixture
def terminal(server: RunningServer) -> Iterator[Terminal]:
    terminal = Terminal(*_command(server, "--interval", "0.2"), TERM="xterm-256color")
    try:
        yield terminal
    finally:
        terminal.close()


def test_it_shows_the_server_until_q(server: RunningServer, terminal: Terminal) -> None:
    until(lambda: b"WORKER" in terminal.read())
    # Tests before this one may have ended its workers, which is remembered for a while.
    status = f"{server.health()['status']}, up".encode()
    for said in (status, b"requests", b"speed", b"streams", b"memory", b"jobs", b"idle"):
        assert said in terminal.drawn, terminal.drawn
    pid = server.health()["workers"][0]["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: b"BEING ASKED" in terminal.read(), _WORKER_GONE_S, "the death is shown")
    until(lambda: b"SIGKILL" in terminal.read())
    terminal.press("q")
    assert until(lambda: terminal.read() and terminal.ended() is not None)


def test_it_prints_where_there_is_no_terminal(server: RunningServer) -> None:
    started = time.monotonic()
    done = subprocess.run(
        _command(server, "-n", "3", "--interval", "0.3"), capture_output=True, text=True, check=True
    )
    looks = done.stdout.strip().split("\n\nmodelserver ")
    assert len(looks) == 3
    assert time.monotonic() - started > 0.6
    assert "\x1b" not in done.stdout
    assert all("WORKER STATE" in look for look in looks)


def test_it_says_where_no_server_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "modelserver", "top", "--admin-listen", "unix:/nonexistent/socket"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no server answers on unix:/nonexistent/socket" in done.stderr
