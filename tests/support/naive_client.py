"""The tests' hand on `naive_server.py`."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path


class NaiveServer:
    """Naive server: its processes and its port."""

    def __init__(self, port: int, pids: list[int]) -> None:
        self.port = port
        self.pids = pids

    def try_convert(self, wav: bytes) -> int | None:
        """Return the status, or None if there was no answer."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/", data=wav)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return int(response.status)
        except OSError:
            return None


@contextlib.contextmanager
def naive_server(
    model: Path, processes: int, before_exec: Callable[[], None]
) -> Iterator[NaiveServer]:
    """Gone at the end."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("naive_server.py")), model, str(processes)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=before_exec,
    )
    with process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        try:
            yield NaiveServer(facts["port"], facts["pids"])
        finally:
            for pid in (*facts["pids"], process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
