"""A machine with a systemd of its own, booted by systemd-nspawn."""

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from debian import CERTIFICATES, checkout, debian_tree, throw_away
from running import until

_PACKAGES = ("python3", "python3-venv", "make", "systemd", "systemd-sysv", "dbus", "procps")
_BOOT_S = 60.0


class Machine:
    """A booted one; its network is ours."""

    def __init__(self, nspawn: subprocess.Popen[bytes], console: Path) -> None:
        self._nspawn = nspawn
        self._console = console
        self._init = until(self._find_init, _BOOT_S, "an init process").pid
        until(self._booted, _BOOT_S, "a booted systemd")

    def _find_init(self) -> psutil.Process | None:
        assert self._nspawn.poll() is None, self._console.read_text(errors="replace")
        # Before it there is another for a moment, which makes it.
        below = psutil.Process(self._nspawn.pid).children(recursive=True)
        return next((process for process in below if process.name() == "systemd"), None)

    def _booted(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """Run it in there, as root."""
        inside = ["nsenter", "-t", str(self._init), "-m", "-p", "-u", "-i"]
        done = subprocess.run(
            [*inside, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *command],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def show(self, unit: str, *names: str) -> list[str]:
        """Properties of a unit, as `systemctl show` gives them."""
        wanted = [f"--property={name}" for name in names]
        lines = self.run("systemctl", "show", unit, *wanted).stdout.splitlines()
        values = dict(line.split("=", 1) for line in lines)
        return [values[name] for name in names]

    def log(self, unit: str) -> str:
        """Return what the unit has logged so far."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit).stdout

    def status(self) -> Any:
        """Return the server's health document."""
        program = "/opt/modelserver/bin/modelserver"
        run = self.run(program, "status", "--json", "--config=/etc/modelserver.toml", check=False)
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(run.stdout)
        return None

    def power_off(self) -> None:
        """Power the machine off in the usual way."""
        self.run("systemctl", "poweroff", "--no-wall", check=False)
        try:
            self._nspawn.wait(60)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()


@contextlib.contextmanager
def booted_machine(directory: Path, before_exec: Callable[[], None]) -> Iterator[Machine]:
    """Boot a machine with the checkout in /src; `before_exec` is called in the process that becomes
    it."""
    source = checkout(directory / "src")
    console = directory / "console"
    with throw_away(debian_tree("systemd", *_PACKAGES)) as root, console.open("wb") as output:
        nspawn = subprocess.Popen(
            [
                *("systemd-nspawn", "--directory", str(root), "--boot"),
                *("--register=no", "--keep-unit", "--machine", f"modelserver-{directory.name[:8]}"),
                f"--bind={source}:/src",
                f"--bind-ro={CERTIFICATES}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=before_exec,
        )
        machine = None
        try:
            machine = Machine(nspawn, console)
            yield machine
        finally:
            if machine is not None:
                machine.power_off()
            elif nspawn.poll() is None:
                nspawn.kill()
                nspawn.wait()
