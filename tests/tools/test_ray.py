"""Many files on the machines of a Ray cluster: two hosts, one of which is lost half way."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hosts import Host, Network, end_at_once, network
from running import until
from wavs import wav_file

import models
from models.vosk.prepared import PreparedModel

pytestmark = pytest.mark.many

FILES = 500
HEAD_PORT = 6379
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
"""Newer versions of Ray ask for one, which their machines have to share."""


@dataclass
class Node:
    """Ray on one host."""

    host: Host
    process: subprocess.Popen[bytes]

    def end_at_once(self) -> None:
        """Kill all its processes, as when the power fails."""
        end_at_once(self.process.pid)
        self.process.wait()


def _start(host: Host, directory: Path, *arguments: str) -> Node:
    command = [str(Path(sys.executable).parent / "ray"), "start", "--block", *arguments]
    command += [f"--node-ip-address={host.address}", "--num-cpus=1", "--memory=1000000000"]
    command += ["--object-store-memory=100000000", "--disable-usage-stats"]
    with (directory / f"ray-{host.name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, preexec_fn=host.enter, env=os.environ | TOKEN
        )
    return Node(host, process)


@dataclass
class Cluster:
    """Two of them."""

    net: Network
    nodes: list[Node]

    @property
    def address(self) -> str:
        return f"{self.net[0].address}:{HEAD_PORT}"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    short = Path(f"/tmp/mr{os.getpid()}")  # for sockets
    with network(2) as net:
        head = _start(
            net[0],
            tmp_path,
            "--head",
            f"--port={HEAD_PORT}",
            "--include-dashboard=false",
            f"--temp-dir={short}",
        )
        nodes = [head]
        try:
            until(lambda: "Ray runtime started" in (tmp_path / "ray-a.log").read_text(), 60)
            nodes.append(_start(net[1], tmp_path, f"--address={net[0].address}:{HEAD_PORT}"))
            until(lambda: "Ray runtime started" in (tmp_path / "ray-b.log").read_text(), 60)
            yield Cluster(net, nodes)
        finally:
            for node in nodes[::-1]:
                node.end_at_once()
            shutil.rmtree(short, ignore_errors=True)


@pytest.fixture(scope="module")
def environment(small: models.ModelLocation, prepared_small: PreparedModel) -> dict[str, str]:
    kept = {
        k: v
        for k, v in os.environ.items()
        if k == "MODELSERVER_CONFIG" or not k.startswith("MODELSERVER_")
    }
    return (
        kept
        | TOKEN
        | {
            "MODELSERVER_MODEL": str(small.directory),
            "MODELSERVER_PREPARED_DIR": str(prepared_small.directory.parent),
            "MODELSERVER_MEMORY_LIMIT": "800MB",
        }
    )


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory, clips: list[bytes]) -> Path:
    """Pieces of speech, each another; and two files that are none."""
    directory = tmp_path_factory.mktemp("audio")
    long = b"".join(clips)
    for number in range(FILES - 2):
        at = number * 3200 % (len(long) - 64_000)
        (directory / f"{number:03d}.wav").write_bytes(wav_file(long[at : at + 48_000]))
    (directory / "none.wav").write_bytes(b"no audio at all" * 100)
    (directory / "empty.wav").write_bytes(b"")
    return directory


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "modelserver", "transcribe", "--format", "json", *arguments]


def _texts(directory: Path) -> dict[str, str]:
    documents = [json.loads(file.read_text()) for file in directory.glob("*.json")]
    return {Path(one["file"]).name: one["speech"]["text"] for one in documents}


def test_a_machine_is_lost_and_every_file_is_there_once(
    cluster: Cluster, environment: dict[str, str], audio: Path, tmp_path: Path
) -> None:
    there, alone = tmp_path / "there", tmp_path / "alone"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            _command("--on", "ray", "--ray-address", cluster.address, "-o", str(there), str(audio)),
            stdout=log,
            stderr=log,
            env=environment,
            preexec_fn=cluster.net[0].enter,
        )
        try:
            until(lambda: len(list(there.glob("*.json"))) > FILES // 4, 80, "it has begun")
            assert process.poll() is None
            cluster.nodes[1].end_at_once()
            assert process.wait(100) == 1  # two were not audio
        finally:
            process.kill()
    said = (tmp_path / "log").read_text()
    assert f"the machine {cluster.net[1].address} is lost" in said
    assert f"{FILES - 2} of {FILES} files transcribed" in said
    assert "on 2 machines" in said
    assert "2 could not be transcribed:" in said
    assert "none.wav: " in said.rpartition("could not be transcribed:")[2]
    subprocess.run(
        _command("-o", str(alone), "--workers", "2", str(audio)),
        env=environment,
        capture_output=True,
        check=False,
        timeout=100,
    )
    texts = _texts(there)
    assert len(texts) == FILES - 2
    assert texts == _texts(alone)
    assert sum(bool(text) for text in texts.values()) > FILES // 2
    # Called again, it only repeats failed files.
    began = time.monotonic()
    again = subprocess.run(
        _command("-o", str(alone), "--workers", "1", str(audio)),
        env=environment,
        capture_output=True,
        check=False,
        timeout=100,
    )
    assert f"{FILES - 2} of them before" in again.stderr.decode()
    assert time.monotonic() - began < 30


def test_ray_is_started_where_there_is_none(
    environment: dict[str, str], audio: Path, tmp_path: Path
) -> None:
    two = [str(audio / "000.wav"), str(audio / "001.wav")]
    own = environment | {"RAY_TMPDIR": f"/tmp/ml{os.getpid()}"}
    done = subprocess.run(
        _command("--on", "ray", *two), env=own, capture_output=True, check=False, timeout=100
    )
    shutil.rmtree(own["RAY_TMPDIR"], ignore_errors=True)
    assert done.returncode == 0, done.stderr
    files = [json.loads(line)["file"] for line in done.stdout.splitlines()]
    assert files == two


def test_an_address_where_there_is_no_ray_is_told(environment: dict[str, str], audio: Path) -> None:
    for arguments, said in (
        (["--on", "ray", "--ray-address", "127.0.0.1:9"], "Ray: nothing answers at 127.0.0.1:9"),
        (["--ray-address", "127.0.0.1:9"], "--ray-address needs --on ray"),
        (["--on", "ray", "--server", "http://x"], "choose one"),
    ):
        done = subprocess.run(
            _command(*arguments, str(audio / "000.wav")),
            env=environment,
            capture_output=True,
            check=False,
            timeout=100,
        )
        assert done.returncode != 0
        assert said in done.stderr.decode()
        assert "Traceback" not in done.stderr.decode()
