"""Notifications to systemd, received as systemd receives them: from a real server, by datagrams."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import start_server, until
from service_manager import Systemd

import models


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    told = Systemd(tmp_path / "notify")
    yield told
    told.close()


def test_systemd_is_told_of_the_whole_life(
    tmp_path: Path, systemd: Systemd, small: models.ModelLocation
) -> None:
    with start_server(
        tmp_path,
        "--model",
        str(small.directory),
        NOTIFY_SOCKET=str(systemd.path),
        WATCHDOG_USEC="2000000",
    ) as server:
        until(lambda: systemd.count("READY"), 30)
        names = [name for _, name, _ in systemd.listen()]
        assert names.index("EXTEND_TIMEOUT_USEC") < names.index("READY")
        assert server.ask("/readyz").status == 200
        until(lambda: systemd.count("WATCHDOG") > 3)
        until(lambda: systemd.last("STATUS").startswith("ok: "))
        os.kill(server.workers()[0].pid, signal.SIGKILL)
        until(lambda: "was killed by SIGKILL" in systemd.last("STATUS"))
        environment = Path(f"/proc/{server.fork_server().pid}/environ").read_text()
        assert "NOTIFY_SOCKET" not in environment  # a child must not speak for us
        # A supervisor that does not get its turn does not feed the watchdog.
        os.kill(server.pid, signal.SIGSTOP)
        systemd.listen()
        fed = systemd.count("WATCHDOG")
        time.sleep(1.5)
        stopped = systemd.count("WATCHDOG")
        os.kill(server.pid, signal.SIGCONT)
        assert stopped == fed
        until(lambda: systemd.count("WATCHDOG") > fed)
        assert server.stop() == 0
        assert systemd.count("STOPPING") == 1
        assert systemd.count("READY") == 1


def test_a_model_that_cannot_be_loaded_is_never_ready_and_says_why(
    tmp_path: Path, systemd: Systemd
) -> None:
    with start_server(
        tmp_path, "--model", str(tmp_path / "none"), NOTIFY_SOCKET=str(systemd.path)
    ) as server:
        until(lambda: "cannot be loaded" in systemd.last("STATUS"))
        assert systemd.count("READY") == 0
        assert systemd.count("WATCHDOG") == 0  # it was not asked for
        assert server.stop() == 0


def test_without_systemd_nothing_is_said(tmp_path: Path, small_settings: dict[str, str]) -> None:
    with start_server(tmp_path, **small_settings) as server:
        server.wait_ready()
        assert server.stop() == 0


def test_no_byte_of_a_name_ends_what_systemd_is_told(tmp_path: Path, systemd: Systemd) -> None:
    """Use a name that is not UTF-8, with a line break, which would begin another field."""
    model = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\nREADY=1/")
    with start_server(
        tmp_path, f"--model={model}", NOTIFY_SOCKET=str(systemd.path), WATCHDOG_USEC="2000000"
    ) as server:
        until(lambda: systemd.count("WATCHDOG") > 5)
        assert systemd.count("READY") == 0
        assert len(systemd.last("STATUS").encode()) < 4096
        assert server.ask("/readyz").status == 503
