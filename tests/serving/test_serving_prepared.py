"""The server and prepared models: used when there, made meanwhile when not, in little memory."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import threading
import time
import unittest.mock
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cgroup import MB, memory_cgroup
from running import RunningServer, gone, start_server, until

import models
from models.vosk.prepared import PreparedModel, compiled_graph, prepared_models
from modelserver.serving.learned import CrashInquiry, Lessons
from modelserver.serving.selection import candidate, candidates
from modelserver.settings import Settings

SHOWN_S = 2.0
"""A death shows on the admin side within that."""


def anonymous_bytes(pid: int) -> int:
    match = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match.group(1)) * 1024


def test_a_prepared_model_is_served_mapped(
    tmp_path: Path, prepared_embedded: PreparedModel, wav_clips: list[bytes]
) -> None:
    with start_server(tmp_path) as server:
        server.wait_whole()
        (loaded,) = server.events("model.loaded")
        assert loaded["details"]["graph"] == "mapped"
        assert loaded["mapped_bytes"] > compiled_graph(prepared_embedded.directory).stat().st_size
        assert loaded["details"]["blas_kernel"]
        assert anonymous_bytes(server.fork_server().pid) < 250 * MB
        for worker in server.workers():
            maps = Path(f"/proc/{worker.pid}/maps").read_text()
            assert str(compiled_graph(prepared_embedded.directory)) in maps
        texts = [server.convert(wav).json["text"] for wav in wav_clips]
    (tmp_path / "plain").mkdir()
    with start_server(
        tmp_path / "plain", MODELSERVER_PREPARED_DIR=str(tmp_path / "none")
    ) as server:
        server.wait_whole()
        assert server.events("model.loaded")[0]["details"]["graph"] == "lazy"
        assert [server.convert(wav).json["text"] for wav in wav_clips] == texts
        assert all(texts)


@pytest.mark.parametrize("prefetch", ["always", "never"])
def test_prefetch_does_what_it_is_told(
    tmp_path: Path, small: models.ModelLocation, prepared_small: PreparedModel, prefetch: str
) -> None:
    with start_server(
        tmp_path,
        "--model",
        str(small.directory),
        MODELSERVER_PREPARED_DIR=str(prepared_small.directory.parent),
        MODELSERVER_ENGINES_VOSK_PREFETCH=prefetch,
    ) as server:
        server.wait_ready()
        assert server.events("model.loaded")[0]["details"]["prefetched"] is (prefetch == "always")


def test_a_model_is_prepared_meanwhile_and_moved_to_without_losing_a_request(
    tmp_path: Path, small: models.ModelLocation, store: Path, wav_clips: list[bytes]
) -> None:
    with start_server(
        tmp_path,
        "--model",
        str(small.directory),
        MODELSERVER_LANGUAGE="ko",
        MODELSERVER_PREPARED_DIR=str(store),
        MODELSERVER_PREPARE="auto",
    ) as server:
        server.wait_ready()
        expected = server.convert(wav_clips[2]).json["text"]
        assert server.events("model.loaded")[0]["details"]["graph"] == "lazy"
        over = threading.Event()

        def client(_: int) -> list[str]:
            texts = []
            while not over.wait(0.2):
                answer = server.convert(wav_clips[2])
                texts.append(answer.json.get("text", str(answer.body)))
            return texts

        # One client, with pauses: where every processor is busy, what has the lowest priority
        # hardly moves.
        with ThreadPoolExecutor(1) as threads:
            clients = threads.map(client, range(1))
            try:
                (preparing,) = until(lambda: server.events("prepare.started"))
                until(lambda: os.getpriority(os.PRIO_PROCESS, preparing["pid"]) == 19)
                server.wait_event("prepare.done", timeout_s=90)
                until(lambda: len(server.events("model.loaded")) == 2, 30)
                until(lambda: len(server.workers()) == os.cpu_count(), 30)
                server.wait_event("fork_server.exited", timeout_s=30, cause="shutdown")
            finally:
                over.set()
            texts = [text for texts in clients for text in texts]
        assert set(texts) == {expected}
        assert len(texts) > 10
        assert server.events("model.loaded")[1]["details"]["graph"] == "mapped"
        assert not server.events("job.retried")
        assert len(list(prepared_models(store))) == 1
        assert server.stop() == 0


def test_reloads_do_not_begin_the_preparation_anew(
    tmp_path: Path, small: models.ModelLocation, store: Path
) -> None:
    with start_server(
        tmp_path,
        f"--model={small.directory}",
        MODELSERVER_LANGUAGE="ko",
        MODELSERVER_PREPARED_DIR=str(store),
        MODELSERVER_PREPARE="auto",
    ) as server:
        server.wait_event("prepare.started", timeout_s=30, model=small.name)
        until(lambda: server.health()["models"][0]["preparing"], 60)
        for _ in range(3):
            seen = len(server.events())
            server.process.send_signal(signal.SIGHUP)
            server.wait_event("server.reloaded", seen)
        server.wait_event("prepare.done", timeout_s=90)
        assert len(server.events("prepare.started")) == 1
        server.wait_event("model.loaded", timeout_s=60, graph="mapped")


def test_first_prepares_before_it_serves(
    tmp_path: Path, small: models.ModelLocation, store: Path
) -> None:
    with start_server(
        tmp_path,
        "--model",
        str(small.directory),
        "--prepare",
        "first",
        MODELSERVER_LANGUAGE="ko",
        MODELSERVER_PREPARED_DIR=str(store),
    ) as server:
        server.wait_event("prepare.started")
        until(lambda: "being prepared" in server.ask("/readyz").json["error"]["message"])
        server.wait_ready()
        (loaded,) = server.events("model.loaded")
        assert loaded["details"]["graph"] == "mapped"


@contextlib.contextmanager
def composing(directory: Path, store: Path) -> Iterator[RunningServer]:
    """A server that serves the embedded model while it is being prepared, which takes minutes."""
    with start_server(
        directory, MODELSERVER_PREPARED_DIR=str(store), MODELSERVER_PREPARE="auto"
    ) as server:
        server.wait_ready()
        until(lambda: list(store.glob(".partial-*/graph/HCLG.fst.arcs")), 30)
        yield server


def test_a_stopped_server_takes_the_preparing_process_along(
    tmp_path: Path, embedded: models.ModelLocation, store: Path
) -> None:
    with composing(tmp_path, store) as server:
        tree = server.tree()
        assert any("compile-graph" in process.name() for process in tree)
        assert server.stop() == 0
        until(lambda: all(gone(process) for process in tree), 2)


def test_a_preparation_that_is_killed_is_told_and_begun_again(
    tmp_path: Path, embedded: models.ModelLocation, store: Path
) -> None:
    with composing(tmp_path, store) as server:
        (preparing,) = server.events("prepare.started")
        # The compiler below it takes the memory, and would be the kernel's choice.
        (compiler,) = [p for p in server.tree() if "compile-graph" in p.name()]
        compiler.kill()

        def shown() -> Any:
            return next(
                (d for d in server.health()["last_deaths"] if d["role"] == "preparation"), None
            )

        death = until(shown, SHOWN_S)
        assert (death["pid"], death["cause"]) == (preparing["pid"], "killed")
        server.wait_event("helper.exited", timeout_s=1, role="preparation", cause="killed")
        counted = b'modelserver_process_exits_total{cause="killed"} 1.0'
        assert counted in server.ask_admin("GET", "/metrics")[1]
        health = server.health()
        assert health["status"] == "degraded"
        assert "lost a process below it to SIGKILL" in health["models"][0]["not_prepared"]
        seen = len(server.events())
        server.wait_event("prepare.started", seen, timeout_s=20)
        until(lambda: server.health()["preparing"])
        assert server.health()["models"][0]["not_prepared"] is None


def test_without_a_compiler_the_plain_model_is_served_and_it_is_said_how_to_get_one(
    tmp_path: Path, small: models.ModelLocation, wav_clips: list[bytes]
) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    with start_server(
        tmp_path,
        "--model",
        str(small.directory),
        PATH=str(empty),
        MODELSERVER_PREPARED_DIR=str(tmp_path / "none"),
        MODELSERVER_PREPARE="auto",
    ) as server:
        server.wait_ready()
        told = server.wait_event("prepare.postponed")
        assert "apt-get install g++ libfst-dev" in told["reason"]
        assert server.health()["models"][0]["not_prepared"] == told["reason"]
        assert server.convert(wav_clips[2]).status == 200


def copied(prepared: PreparedModel, store: Path) -> Path:
    """Copy it, so that the copy can be damaged; return the copy's graph."""
    for name in ("prepared.json", *prepared.manifest.made):
        copy = store / prepared.directory.name / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(prepared.directory / name, copy)
    return store / prepared.directory.name / "graph" / "HCLG.fst"


def overwrite(graph: Path) -> None:
    """Overwrite all but its header, in place, with the same size and time."""
    before = graph.stat()
    with graph.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xfe" * (before.st_size - 4096))
    os.utime(graph, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut_short(graph: Path) -> None:
    os.truncate(graph, 4096)


def test_a_damaged_prepared_model_is_told_and_the_plain_one_served(
    tmp_path: Path, small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    graph = copied(prepared_small, tmp_path / "store")
    with graph.open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"12345")
    with start_server(
        tmp_path, "--model", str(small.directory), MODELSERVER_PREPARED_DIR=str(tmp_path / "store")
    ) as server:
        server.wait_ready()
        told = server.wait_event("prepared_model.rejected")
        assert "HCLG.fst is damaged" in told["problem"]
        assert server.events("model.loaded")[0]["details"]["graph"] == "lazy"


def test_what_crashes_while_it_is_loaded_is_verified_and_the_original_served(
    tmp_path: Path, small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    """Damage it in a way that its size and time do not show: the warm-up of the load runs into
    it."""
    overwrite(copied(prepared_small, tmp_path / "store"))
    with start_server(
        tmp_path, f"--model={small.directory}", MODELSERVER_PREPARED_DIR=str(tmp_path / "store")
    ) as server:
        server.wait_ready()
        assert [e["form"] for e in server.events("model.chosen")] == ["prepared-simd", "published"]
        assert "is damaged: its checksum" in server.events("prepared_model.rejected")[0]["problem"]
        assert not any((tmp_path / "store").glob("*/prepared.json"))


@pytest.mark.timeout(240)  # a server serves, is damaged, and prepares its model again
@pytest.mark.parametrize("damage", [cut_short, overwrite])
def test_what_is_damaged_while_it_serves_costs_no_request(
    tmp_path: Path,
    small: models.ModelLocation,
    prepared_small: PreparedModel,
    wav_clips: list[bytes],
    damage: Callable[[Path], None],
) -> None:
    graph = copied(prepared_small, tmp_path / "store")
    with start_server(
        tmp_path,
        f"--model={small.directory}",
        MODELSERVER_WORKERS_COUNT="2",
        MODELSERVER_PREPARE="auto",
        MODELSERVER_PREPARED_DIR=str(tmp_path / "store"),
    ) as server:
        server.wait_whole()
        seen = len(server.events())
        damage(graph)
        with ThreadPoolExecutor(4) as clients:
            answers = list(clients.map(server.convert, wav_clips))
        assert [answer.status for answer in answers] == [200] * len(wav_clips)
        assert [e["details"]["graph"] for e in server.events("model.loaded")][:2] == [
            "mapped",
            "lazy",
        ]
        assert "is damaged" in server.wait_event("prepared_model.rejected", seen)["problem"]
        server.wait_event("prepare.done", seen, timeout_s=120)
        server.wait_event("model.loaded", seen, timeout_s=60, graph="mapped")
        assert server.convert(wav_clips[0]).status == 200


def test_files_that_are_written_to_after_a_look_are_read_again(
    tmp_path: Path, small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    """Read changed files again at once. Unchanged ones are not: crashes may be caused by
    requests."""
    graph = copied(prepared_small, tmp_path / "store")
    engine = unittest.mock.Mock(wraps=models.engine_of(small.directory))
    form = candidate(small, Settings(prepared_dir=tmp_path / "store")).form
    inquiry = CrashInquiry(Lessons())

    def look() -> tuple[bool, bool]:
        sound = asyncio.run(inquiry.sound(engine, form))
        return sound, engine.sound.call_args.kwargs["thorough"]

    assert look() == (True, True)
    assert look() == (True, False)
    overwrite(graph)
    assert look() == (False, True)


def test_one_that_cannot_be_removed_is_not_used_again(
    tmp_path: Path, small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    """A store on a read-only image, say."""
    graph = copied(prepared_small, tmp_path / "store")
    overwrite(graph)
    lessons = Lessons()
    settings = Settings(prepared_dir=tmp_path / "store")
    engine = models.engine_of(small.directory)
    form = candidate(small, settings).form
    assert form.prepared is not None
    with unittest.mock.patch(
        "models.prepared.of_engine.remove", side_effect=OSError(30, "Read-only file system")
    ):
        assert not asyncio.run(CrashInquiry(lessons).sound(engine, form))
    (choice,) = candidates(small, settings, lessons)
    assert choice.form.prepared is None
    assert "known to be damaged" in choice.problems[0]


# --- little memory, by the real kernel ------------------------------------------------------------


def transcribe_all(server: RunningServer, wavs: list[bytes]) -> tuple[list[str], float]:
    """Return the texts, and wall seconds per second of audio."""
    started = time.monotonic()
    answers = [server.convert(wav).json for wav in wavs]
    took = time.monotonic() - started
    return [a["text"] for a in answers], took / sum(a["duration"] for a in answers)


def test_three_hundred_megabytes_are_enough_for_a_prepared_model(
    tmp_path: Path, prepared_embedded: PreparedModel, wav_clips: list[bytes]
) -> None:
    assert compiled_graph(prepared_embedded.directory).stat().st_size > 900 * MB
    with (
        memory_cgroup(300 * MB) as group,
        start_server(tmp_path, "--workers", "1", before_exec=group.enter) as server,
    ):
        server.wait_ready()
        assert server.events("model.loaded")[0]["details"]["prefetched"] is False
        transcribe_all(server, wav_clips)
        texts, real_time_factor = transcribe_all(server, wav_clips)
        assert all(texts)
        assert real_time_factor < 0.35
        assert group.oom_kills() == 0
        assert not server.events("worker.exited")
        assert group.usage() <= 300 * MB


def test_the_plain_model_is_refused_in_three_hundred_megabytes_before_it_is_read(
    tmp_path: Path, embedded: models.ModelLocation
) -> None:
    assert embedded.name
    with (
        memory_cgroup(300 * MB) as group,
        start_server(
            tmp_path,
            "--workers",
            "1",
            before_exec=group.enter,
            MODELSERVER_PREPARED_DIR=str(tmp_path / "none"),
        ) as server,
    ):
        server.wait_event("model.start_failed", timeout_s=30)
        refused = server.ask("/readyz")
        assert refused.status == 503
        message = refused.json["error"]["message"]
        assert re.search(
            r"vosk-model-small-ko-0\.22 does not fit: it needs 6\d\d MB \(6\d\d MB for the model, "
            r"the rest for 1 worker\), and there is room for 2\d\d MB \(300 MB is the limit "
            r"\(cgroup .*\)\); prepared, it would need 1[78]\d MB",
            message,
        )
        assert not server.events("fork_server.started")
        assert group.oom_kills() == 0
        assert server.ask("/healthz").status == 200


def test_the_limit_may_shrink_under_a_running_server(
    tmp_path: Path, prepared_embedded: PreparedModel, wav_clips: list[bytes]
) -> None:
    assert compiled_graph(prepared_embedded.directory).is_file()
    with (
        memory_cgroup(1000 * MB) as group,
        start_server(tmp_path, "--workers", "1", before_exec=group.enter) as server,
    ):
        server.wait_ready()
        before, _ = transcribe_all(server, wav_clips)
        group.limit(350 * MB)
        after, real_time_factor = transcribe_all(server, wav_clips)
        assert after == before
        assert real_time_factor < 0.35
        assert group.oom_kills() == 0
        assert group.usage() <= 350 * MB
