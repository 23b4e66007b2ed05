"""The Debian package on a booted systemd, from `dpkg --install` to `dpkg --purge`:
`make test-systemd`. One machine goes through all of it, in the order of the tests."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from booted import Machine, booted_machine
from places import ROOT
from running import Answer, ask, until

import models

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(900)]

UNIT = "modelserver.service"
VERSIONS = ("0.1.0", "0.1.1")
HOME = "/var/lib/modelserver"


@pytest.fixture(scope="module")
def machine(
    tmp_path_factory: pytest.TempPathFactory, embedded: models.ModelLocation
) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp("deb")
    with booted_machine(directory, lambda: None) as booted:
        for version in VERSIONS:
            subprocess.run(
                [ROOT / "scripts" / "deb"],
                env=os.environ
                | {"DEB_VERSION": version, "DIST": str(directory), "BUILDER": sys.executable},
                check=True,
                capture_output=True,
            )
            (built,) = directory.glob(f"modelserver_{version}_*.deb")
            built.rename(directory / "src" / f"{version}.deb")
        shutil.copytree(embedded.directory, directory / "src" / embedded.name)
        yield booted


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free: int = probe.getsockname()[1]
    return free


WRITTEN_BY_OTHERS = (
    *("/proc", "/run", "/src", "/tmp", "/var/backups", "/var/cache", "/var/lib/apt"),
    *("/var/lib/dpkg", "/var/lib/systemd", "/var/log"),
)


def files(machine: Machine) -> set[str]:
    """Return the files of the system, without those of package managers, timers and the journal."""
    others = " -o ".join(f"-path {path}" for path in WRITTEN_BY_OTHERS).split()
    command = ("find", "/", "-xdev", "(", *others, ")", "-prune", "-o", "-print")
    return set(machine.run(*command).stdout.splitlines())


def status(machine: Machine) -> Any:
    return json.loads(machine.run("modelserver", "status", "--json", check=False).stdout or "null")


def post(port: int, wav: bytes) -> Answer:
    return ask(f"http://127.0.0.1:{port}/api/audio/convert", wav)


@pytest.fixture(scope="module")
def before(machine: Machine) -> set[str]:
    return files(machine)


def test_it_is_installed_and_waits_for_a_model(
    machine: Machine, before: set[str], port: int, wav_clips: list[bytes]
) -> None:
    machine.run("dpkg", "--install", f"/src/{VERSIONS[0]}.deb")
    assert "usage" in machine.run("modelserver", "--help").stdout.lower()
    until(lambda: "models pull" in machine.show(UNIT, "StatusText")[0], 60, "how to get a model")
    assert machine.run("systemctl", "is-enabled", UNIT).stdout.strip() == "enabled"
    manual = machine.run("zcat", "/usr/share/man/man1/modelserver.1.gz").stdout
    assert "modelserver models pull" in manual

    settings = f'port = {port}\nprepare = "never"\nworkers.count = 1\n'
    machine.run("sh", "-c", f"echo '{settings}' > /etc/modelserver.toml")
    machine.run("cp", "-r", "/src/vosk-model-small-ko-0.22", f"{HOME}/models/")
    machine.run("chown", "-R", "modelserver:modelserver", f"{HOME}/models")
    machine.run("systemctl", "restart", UNIT)
    assert machine.show(UNIT, "ActiveState") == ["active"]
    answer = post(port, wav_clips[0])
    assert (answer.status, bool(answer.json["text"])) == (200, True)
    pid = machine.show(UNIT, "MainPID")[0]
    assert machine.run("ps", "-o", "user=", "-p", pid).stdout.split() == ["modelserver"]


WATCHED = """
watch() {
    while [ ! -e /upgraded ]; do
        [ -f /usr/lib/modelserver/lib/python3*/site-packages/modelserver/__init__.py ] || touch /gap
        sleep 0.02
    done
}
watch & dpkg --force-confold --install "$1" || exit
touch /upgraded && wait && rm /upgraded && test ! -e /gap
"""
"""Ends with 0 if the environment was whole at every moment of the upgrade."""


def test_an_upgrade_keeps_settings_and_restarts(
    machine: Machine, port: int, wav_clips: list[bytes]
) -> None:
    first = machine.show(UNIT, "MainPID")
    machine.run("sh", "-c", WATCHED, "sh", f"/src/{VERSIONS[1]}.deb")
    until(lambda: machine.show(UNIT, "MainPID") not in (first, ["0"]), 60, "a restart")
    until(lambda: machine.show(UNIT, "ActiveState") == ["active"], 60, "an active unit")
    assert post(port, wav_clips[0]).status == 200
    assert f"port = {port}" in machine.run("cat", "/etc/modelserver.toml").stdout
    there = machine.run("sh", "-c", "ls -d /usr/lib/modelserver*").stdout.split()
    assert there == ["/usr/lib/modelserver", f"/usr/lib/modelserver-{VERSIONS[1]}"]


def test_it_is_removed_and_comes_back_as_it_was(
    machine: Machine, port: int, wav_clips: list[bytes]
) -> None:
    machine.run("dpkg", "--remove", "modelserver")
    assert machine.show(UNIT, "ActiveState") == ["inactive"]
    machine.run("test", "-f", "/etc/modelserver.toml")
    machine.run("test", "-d", f"{HOME}/models/vosk-model-small-ko-0.22")
    machine.run("dpkg", "--install", f"/src/{VERSIONS[1]}.deb")
    until(lambda: machine.show(UNIT, "ActiveState") == ["active"], 60, "an active unit")
    assert post(port, wav_clips[0]).status == 200


def test_installed_and_purged_again_and_again_it_leaves_nothing(
    machine: Machine, before: set[str]
) -> None:
    for _ in range(10):
        machine.run("dpkg", "--purge", "modelserver")
        assert machine.run("getent", "passwd", "modelserver", check=False).returncode != 0
        assert {path for path in files(machine) - before if "modelserver" in path} == set()
        machine.run("dpkg", "--install", f"/src/{VERSIONS[0]}.deb")
    machine.run("dpkg", "--purge", "modelserver")
    assert files(machine) - before == set()
    assert machine.run("ls", "/var/cache").stdout.find("modelserver") < 0
