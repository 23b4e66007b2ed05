"""ONNX models where memory is short, workers are killed, and files are changed while they serve."""

import concurrent.futures
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from cgroup import memory_cgroup
from onnx_models import make_model, silence, tones, write_network
from running import RunningServer, start_server, until
from wavs import wav_file

import models
from models.prepared import PreparedModel
from models.sherpa.prepared import prepare

MB = 1_000_000
WEIGHTS_BYTES = 200 * MB
SUPERVISOR_BYTES = 60 * MB
"""Bytes of the supervisor, with the reserve."""
KIND = "zipformer_ctc"
TEXTS = ("ab ba", "feed", "cab gage", "d", "a bad hedge")


def spoken(text: str) -> bytes:
    return wav_file(silence(0.3) + tones(text) + silence(0.7))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> models.ModelLocation:
    """A model of 200 MB."""
    directory = tmp_path_factory.mktemp("large") / "tones"
    return models.ModelLocation(
        "tones", make_model(KIND, directory, padding_bytes=WEIGHTS_BYTES), "en"
    )


@pytest.fixture(scope="module")
def prepared_large(
    large: models.ModelLocation, tmp_path_factory: pytest.TempPathFactory
) -> PreparedModel:
    store = tmp_path_factory.mktemp("prepared")
    return prepare(large, store, available_memory=100_000 * MB)


@pytest.fixture
def store(prepared_large: PreparedModel, tmp_path: Path) -> Path:
    """A copy of the prepared model that may be damaged, in a store of its own."""
    source = prepared_large.directory
    shutil.copytree(source, tmp_path / "store" / source.name, symlinks=True)
    for file in source.rglob("*"):  # times are a part of the files' stamps
        shutil.copystat(file, tmp_path / "store" / source.name / file.relative_to(source))
    return tmp_path / "store"


def settings(store: Path, workers: int = 2) -> dict[str, str]:
    return {
        "MODELSERVER_ENGINES_ONNX_VOICE_ACTIVITY": "loudness",
        "MODELSERVER_PREPARED_DIR": str(store),
        "MODELSERVER_WORKERS_COUNT": str(workers),
    }


def form(server: RunningServer) -> str:
    return str(server.events("model.loaded")[-1]["form"])


def must_recognise(server: RunningServer) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as clients:
        answers = clients.map(lambda text: server.convert(spoken(text)), TEXTS * 4)
        assert [answer.json["text"] for answer in answers] == [*TEXTS] * 4


def test_two_workers_of_a_prepared_model_fit_into_three_hundred_megabytes(
    large: models.ModelLocation, prepared_large: PreparedModel, tmp_path: Path
) -> None:
    environment = settings(prepared_large.directory.parent)
    with (
        memory_cgroup(300 * MB) as group,
        start_server(
            tmp_path, f"--model={large.directory}", before_exec=group.enter, **environment
        ) as server,
    ):
        server.wait_whole()
        assert form(server) == "prepared"
        must_recognise(server)
        assert group.oom_kills() == 0
        assert not server.events("worker.exited")
        assert group.usage() <= 300 * MB


def test_a_model_that_does_not_fit_is_refused_with_numbers_or_served_prepared(
    large: models.ModelLocation, store: Path, tmp_path: Path
) -> None:
    """Allow 200 MB less than it needs."""
    needs = models.engine_of(large.directory).forms(large, models.EngineSettings(store))[-1]
    limit = needs.prediction.total(2) + SUPERVISOR_BYTES - 200 * MB
    with memory_cgroup(limit) as group:
        flags = (f"--model={large.directory}",)
        (tmp_path / "refused").mkdir()
        none = settings(tmp_path / "none")
        with start_server(tmp_path / "refused", *flags, before_exec=group.enter, **none) as server:
            server.wait_event("model.start_failed", timeout_s=30)
            refused = server.ask("/readyz")
            assert refused.status == 503
            assert re.search(
                r"tones does not fit: it needs 3\d\d MB \(2\d\d MB for the model, the rest for 2 "
                r"workers\), and there is room for 1\d\d MB \(\d+ MB is the limit \(cgroup .*\)\)",
                refused.json["error"]["message"],
            )
            assert not server.events("fork_server.started")
        with start_server(tmp_path, *flags, before_exec=group.enter, **settings(store)) as server:
            server.wait_whole()
            assert form(server) == "prepared"
            must_recognise(server)
        assert group.oom_kills() == 0


@pytest.mark.timeout(120)
def test_no_request_is_lost_while_a_worker_is_killed_every_two_seconds(
    large: models.ModelLocation, prepared_large: PreparedModel, tmp_path: Path
) -> None:
    environment = settings(prepared_large.directory.parent)
    with start_server(tmp_path, f"--model={large.directory}", **environment) as server:
        server.wait_whole()
        ends = time.monotonic() + 20

        def one_client(number: int) -> int:
            count = 0
            while time.monotonic() < ends:
                text = TEXTS[(number + count) % len(TEXTS)]
                answer = server.convert(spoken(text))
                assert (answer.status, answer.json.get("text")) == (200, text)
                count += 1
            return count

        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            clients = [threads.submit(one_client, number) for number in range(4)]
            killed = 0
            while time.monotonic() < ends:
                worker = server.workers()[killed % 2]
                worker.send_signal(signal.SIGKILL)
                killed += 1
                concurrent.futures.wait(clients, timeout=2)
            answered = sum(client.result() for client in clients)
        assert killed >= 9
        assert answered > 20
        until(
            lambda: sum(e["cause"] == "killed" for e in server.events("worker.exited")) == killed,
            what="every death in the log",
        )
        server.wait_whole()


def truncate(data: Path) -> None:
    """Remove the file's pages: reading them is a SIGBUS."""
    with data.open("r+b") as file:
        file.truncate(4096)


def change(data: Path) -> None:
    """Wrong weights crash nothing by themselves."""
    with data.open("r+b") as file:
        file.write(bytes(range(256)) * (WEIGHTS_BYTES // 256))


def crash_a_worker(server: RunningServer) -> None:
    """Crash an idle worker, and wait until that is in the log."""
    worker, seen = server.workers()[0], len(server.events())
    worker.send_signal(signal.SIGSEGV)
    server.wait_event("worker.exited", seen, pid=worker.pid, cause="crash")


@pytest.mark.timeout(300)  # a large model is loaded twice
@pytest.mark.parametrize("damage", [truncate, change])
def test_a_prepared_model_that_is_damaged_while_it_serves_gives_way_to_the_original(
    large: models.ModelLocation, store: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    with start_server(tmp_path, f"--model={large.directory}", **settings(store)) as server:
        server.wait_whole()
        assert form(server) == "prepared"
        if damage is change:
            crash_a_worker(server)  # while all is whole: a crash that tells nothing
            must_recognise(server)
            assert not server.events("prepared_model.rejected")
        (data,) = store.glob("*/*.onnx.data")
        damage(data)
        if damage is change:
            server.wait_whole()
            crash_a_worker(server)
        answers = [server.convert(spoken("feed")).status for _ in range(3)]
        assert set(answers) <= {200, 422, 500, 503}
        until(lambda: form(server) == "published", 60, "the original")
        server.wait_whole()
        must_recognise(server)
        told = server.wait_event("prepared_model.rejected")
        assert data.name in told["problem"]


def test_a_wrong_model_at_a_reload_leaves_the_one_that_serves(tmp_path: Path) -> None:
    good = make_model(KIND, tmp_path / "good")
    wrong = make_model("sense_voice", tmp_path / "wrong")
    write_network(wrong / "model.onnx", {"model_type": "sense_voice_ctc"})
    file = tmp_path / "settings.toml"
    file.write_text(f'model = "{good}"')
    with start_server(tmp_path, "--config", str(file), **settings(tmp_path / "none")) as server:
        server.wait_whole()
        before = {worker.pid for worker in server.workers()}
        file.write_text(f'model = "{wrong}"')
        server.process.send_signal(signal.SIGHUP)
        why = "model.onnx (sense_voice) cannot be loaded: 'vocab_size' does not exist"
        assert until(
            lambda: any(why in reason for reason in server.health()["reasons"]), 30, "the reason"
        )
        must_recognise(server)
        assert all(psutil.pid_exists(pid) for pid in before)
        assert server.health()["models"][0]["state"] == "ready"
