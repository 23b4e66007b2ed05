"""The service on a booted systemd, from `make install` to `make uninstall`: `make test-systemd`.

One machine goes through all of it, in the order of the tests.
"""

import concurrent.futures
import socket
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from booted import Machine, booted_machine
from cgroup import memory_cgroup
from debian import CERTIFICATES
from mixed_clients import mixed_clients
from running import Answer, ask, until

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(400)]

UNIT = "modelserver.service"
MEMORY = 2400 << 20
"""Bytes that the whole machine may use."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with (
        memory_cgroup(MEMORY) as group,
        booted_machine(tmp_path_factory.mktemp("booted"), group.enter) as booted,
    ):
        yield booted
        assert group.oom_kills() == 0


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free: int = probe.getsockname()[1]
    return free


def post(port: int, wav: bytes) -> Answer:
    return ask(f"http://127.0.0.1:{port}/api/audio/convert", wav)


def test_it_is_installed_and_starts_and_answers(
    machine: Machine, port: int, wav_clips: list[bytes]
) -> None:
    machine.run("env", f"PIP_CERT={CERTIFICATES}", "make", "-C", "/src", "install")
    settings = f'port = {port}\nprepare = "never"\ndebug.warmup = "none"\nlog.format = "json"\n'
    settings += "workers.count = 2\n"
    machine.run("sh", "-c", f"echo '{settings}' > /etc/modelserver.toml")
    # Returns when the service says READY: from here on it must answer.
    machine.run("systemctl", "enable", "--now", UNIT)
    active, status = machine.show(UNIT, "ActiveState", "StatusText")
    assert active == "active"
    assert status.startswith("ok: vosk-model-small-ko-0.22, 2 workers")
    answer = post(port, wav_clips[0])
    assert (answer.status, bool(answer.json["text"])) == (200, True)
    pid = machine.show(UNIT, "MainPID")[0]
    assert machine.run("ps", "-o", "user=", "-p", pid).stdout.split() == ["modelserver"]


def test_its_limit_is_the_machines(machine: Machine) -> None:
    # A systemd without a memory controller of its own cannot set the unit's MemoryMax; the limit
    # around the whole machine is read in the same way.
    memory = machine.status()["memory"]
    assert (memory["limit_bytes"], "memory.limit_in_bytes" in memory["limit_is"]) == (MEMORY, True)


def test_a_killed_worker_is_named_and_replaced(machine: Machine, port: int) -> None:
    before = machine.status()
    victim = before["workers"][0]["pid"]
    machine.run("kill", "-KILL", str(victim))

    def shown() -> Any:
        deaths = machine.status()["last_deaths"]
        return next((death for death in deaths if death["pid"] == victim), None)

    assert until(shown, 2.0, "the death in the health document")["cause"] == "killed"
    until(lambda: machine.show(UNIT, "StatusText")[0].startswith("degraded: worker process"), 5)
    until(lambda: [w["state"] for w in machine.status()["workers"]] == ["idle", "idle"])
    assert machine.status()["pid"] == before["pid"]
    assert machine.show(UNIT, "NRestarts") == ["0"]


def test_it_is_reloaded_without_a_new_start(
    machine: Machine, port: int, wav_clips: list[bytes]
) -> None:
    before = machine.status()
    machine.run("systemctl", "reload", UNIT)
    until(lambda: machine.status()["fork_server_pid"] not in (None, before["fork_server_pid"]), 30)
    assert post(port, wav_clips[0]).status == 200
    after = machine.status()
    assert (after["pid"], machine.show(UNIT, "NRestarts")) == (before["pid"], ["0"])
    until(lambda: len(machine.status()["workers"]) == 2)


def test_a_restart_lets_clients_wait_and_refuses_nobody(
    machine: Machine, port: int, wav_clips: list[bytes]
) -> None:
    clip = min(wav_clips, key=len)
    with mixed_clients(f"http://127.0.0.1:{port}", clip, kept=2, streams=0) as account:
        until(lambda: len(account.done) == 3, 60, "an answer of each kind")
        for _ in range(3):
            before = machine.show(UNIT, "MainPID")
            machine.run("systemctl", "restart", UNIT)
            assert machine.show(UNIT, "MainPID") != before
            seen = sum(account.done.values())
            until(lambda seen=seen: sum(account.done.values()) > seen + 5, 60)
    assert int(machine.show(UNIT, "NFileDescriptorStore")[0]) >= 1
    until(lambda: len(machine.status()["workers"]) == 2, 30)


def test_an_upgrade_beside_systemd_is_refused(machine: Machine) -> None:
    before = machine.show(UNIT, "MainPID")
    command = ("/opt/modelserver/bin/modelserver", "upgrade", "--config=/etc/modelserver.toml")
    done = machine.run(*command, check=False)
    assert (done.returncode, "systemctl restart" in done.stderr) == (1, True)
    assert machine.show(UNIT, "MainPID") == before


def test_requests_in_flight_are_answered_when_it_is_stopped(
    machine: Machine, port: int, wav_clips: list[bytes]
) -> None:
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        answers = [threads.submit(post, port, wav_clips[0]) for _ in range(6)]
        until(lambda: machine.status()["queue"]["admitted"] == 6)
        machine.run("systemctl", "stop", UNIT)
        assert [answer.result().status for answer in answers] == [200] * 6
    active, result = machine.show(UNIT, "ActiveState", "Result")
    assert (active, result) == ("inactive", "success")
    with pytest.raises(urllib.error.URLError):
        post(port, wav_clips[0])


def test_the_watchdog_restarts_a_supervisor_that_hangs(
    machine: Machine, port: int, wav_clips: list[bytes]
) -> None:
    drop_in = Path("/run/systemd/system/modelserver.service.d/quick.conf")
    machine.run("mkdir", "-p", str(drop_in.parent))
    machine.run("sh", "-c", f"printf '[Service]\\nWatchdogSec=3\\n' > {drop_in}")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", UNIT)
    hung = machine.show(UNIT, "MainPID")[0]
    machine.run("kill", "-STOP", hung)
    until(lambda: machine.show(UNIT, "NRestarts") == ["1"], 30, "a restart")
    until(lambda: machine.show(UNIT, "ActiveState") == ["active"], 60, "an active unit")
    assert machine.show(UNIT, "MainPID")[0] != hung
    assert "Watchdog timeout" in machine.log(UNIT)
    assert post(port, wav_clips[0]).status == 200


def test_a_model_that_is_not_there_is_said_in_its_status(machine: Machine) -> None:
    machine.run("sh", "-c", "echo 'model = \"no-such-model\"' >> /etc/modelserver.toml")
    machine.run("systemctl", "--no-block", "restart", UNIT)
    until(
        lambda: "there is no model 'no-such-model'" in machine.show(UNIT, "StatusText")[0],
        15,
        "the reason in the unit's status",
    )
    assert machine.show(UNIT, "ActiveState") == ["activating"]
    machine.run("systemctl", "stop", UNIT)


def test_it_is_uninstalled_and_leaves_what_is_the_users(machine: Machine) -> None:
    machine.run("make", "-C", "/src", "uninstall")
    assert machine.run("systemctl", "cat", UNIT, check=False).returncode != 0
    left = machine.run("sh", "-c", "ls -d /opt/modelserver /etc/modelserver.toml; true").stdout
    assert left.split() == ["/etc/modelserver.toml"]
