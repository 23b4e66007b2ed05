"""Several models at once, and changing them while requests come in."""

import concurrent.futures
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import share_compiler, wav_file
from running import RunningServer, start_server, until
from small_model import SMALL_WORDS, add_rescoring, make_small_model

import models

KO, ZH = "vosk-model-small-ko-0.1", "vosk-model-small-cn-0.22"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, embedded: models.ModelLocation) -> Path:
    """Directory of two models that recognise different words, and need memory for many more."""
    home = tmp_path_factory.mktemp("home")
    words = SMALL_WORDS.split()
    half = words[: len(words) // 2]
    make_small_model(embedded.directory, home / KO, words, table_of_all=True)
    make_small_model(embedded.directory, home / ZH, half, skew=9, table_of_all=True)
    return home


class Changing:
    """A running server and its settings file."""

    def __init__(self, server: RunningServer, file: Path, common: str) -> None:
        self.server = server
        self._file = file
        self._common = common

    def settings(self, text: str) -> None:
        write(self._file, self._common, text)

    def hang_up(self) -> int:
        """SIGHUP; returns how much was logged before."""
        seen = len(self.server.events())
        self.server.process.send_signal(signal.SIGHUP)
        return seen

    def admin(self, method: str, path: str) -> tuple[int, Any]:
        status, body = self.server.ask_admin(method, path)
        return status, json.loads(body)

    def health(self) -> Any:
        return self.server.health()

    def states(self) -> dict[str, str]:
        return {model["label"]: model["state"] for model in self.health()["models"]}

    def model(self, wav: bytes, query: str = "") -> Any:
        answer = self.server.convert(wav, query)
        assert answer.status == 200, answer.body
        return answer.json["model"]


def write(file: Path, common: str, text: str) -> None:
    partial = file.with_suffix(".new")
    partial.write_text(f"{common}\n{text}\n")
    partial.rename(file)


@contextlib.contextmanager
def changing(
    directory: Path, home: Path, text: str, common: str = "", **environment: str
) -> Iterator[Changing]:
    file = directory / "settings.toml"
    common += f'\nmodels_dir = "{home}"\ndebug.warmup = "none"\nworkers.count = 1\ndrain_s = 10'
    write(file, common, text)
    with start_server(directory, "--config", str(file), **environment) as server:
        yield Changing(server, file, common)


SEVERAL = f"""
[models.ko]
model = "{KO}"
workers = 2
[models.cn]
model = "{ZH}"
[models.later]
model = "{ZH}"
language = "xx"
load = "first_use"
idle_s = 0.5
"""


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Changing]:
    with changing(tmp_path_factory.mktemp("several"), home, SEVERAL) as server:
        server.server.wait_ready()
        until(lambda: server.states()["cn"] == "ready", 30)
        yield server


@pytest.mark.parametrize(
    ("query", "model"),
    [
        ("", KO),
        ("?model=ko", KO),
        ("?model=cn", ZH),
        (f"?model={ZH}", ZH),
        ("?language=ko", KO),
        ("?language=zh", ZH),
        ("?language=zh-CN", ZH),
        ("?model=cn&language=zh", ZH),
    ],
)
def test_a_request_says_which_model_it_wants(
    several: Changing, wav_clips: list[bytes], query: str, model: str
) -> None:
    assert several.model(wav_clips[0], query) == model


def test_status_says_which_model_is_which(several: Changing) -> None:
    command = [sys.executable, "-m", "modelserver", "status"]
    done = subprocess.run(
        [*command, f"--admin-listen=unix:{several.server.admin}"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    for label in ("ko", "cn"):
        assert any(line.startswith(f"engine ({label}): vosk, form ") for line in lines)
        assert any(line.startswith(f"sandbox of its workers ({label}): ") for line in lines)
    assert f"model cn: ready, {ZH}, zh" in lines


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("?model=klingon", "there is no model called 'klingon'"),
        ("?language=fr", "there is no model for the language 'fr'"),
        ("?model=ko&language=zh", "there is no model called 'ko' and for the language 'zh'"),
    ],
)
def test_a_model_that_is_not_there_is_a_404_that_lists_what_is(
    several: Changing, wav_clips: list[bytes], query: str, says: str
) -> None:
    answer = several.server.convert(wav_clips[0], query)
    assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")
    message = answer.json["error"]["message"]
    assert message.startswith(says)
    assert f"ko ({KO}, ko), cn ({ZH}, zh), later (" in message


def test_each_model_has_workers_of_its_own_and_one_guard_sees_all(several: Changing) -> None:
    health = several.health()
    by_label = {model["label"]: model for model in health["models"]}
    assert [worker["id"] for worker in health["workers"]] == [0, 1, 2]
    servers = {by_label["ko"]["fork_server_pid"], by_label["cn"]["fork_server_pid"]}
    assert len(servers) == 2
    parents = [os.getpgid(worker["pid"]) for worker in health["workers"]]
    assert (parents.count(by_label["ko"]["fork_server_pid"]), set(parents)) == (2, servers)
    # The memory of both fork servers, counted once each, and of no helper.
    held = sum(psutil.Process(pid).memory_info().rss for pid in servers)
    until(lambda: several.health()["memory"]["used_bytes"] > 0.7 * held, 10)
    assert not several.server.events("guard.helper_ended")


def test_a_death_in_one_model_is_no_concern_of_the_other(
    several: Changing, wav_clips: list[bytes]
) -> None:
    victim = several.health()["models"][1]["fork_server_pid"]
    os.kill(victim, signal.SIGKILL)
    assert several.model(wav_clips[0], "?model=ko") == KO
    until(lambda: several.health()["models"][1]["fork_server_pid"] not in (None, victim), 20)
    until(lambda: several.states()["cn"] == "ready", 20)
    assert several.model(wav_clips[0], "?model=cn") == ZH


def test_a_model_is_loaded_when_it_is_asked_for_and_unloaded_when_nobody_asks(
    several: Changing, wav_clips: list[bytes]
) -> None:
    until(lambda: several.states()["later"] == "unloaded", 10)
    seen = len(several.server.events())
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(several.model, wav_clips[0], "?model=later") for _ in range(3)]
        assert [future.result() for future in asked] == [ZH] * 3
    loaded = [e for e in several.server.events()[seen:] if e["event"] == "model.loaded"]
    assert len(loaded) == 1
    event = several.server.wait_event("model.unloaded", seen, model="later")
    assert event["reason"] == "no request for 0.5 s"
    until(lambda: not psutil.pid_exists(loaded[0]["pid"]), 5)
    assert several.states() == {"ko": "ready", "cn": "ready", "later": "unloaded"}
    assert several.health()["exits_by_cause"]["shutdown"] >= 2  # a counter never falls


def test_a_worker_of_any_model_can_be_recycled(several: Changing) -> None:
    before = {worker["id"]: worker["pid"] for worker in several.health()["workers"]}
    assert several.admin("POST", "/admin/workers/2/recycle")[0] == 202

    def after() -> dict[int, int]:
        return {worker["id"]: worker["pid"] for worker in several.health()["workers"]}

    now = until(lambda: (a := after()).keys() == before.keys() and a[2] != before[2] and a)
    assert now[0] == before[0]


def test_the_model_used_longest_ago_goes_when_memory_is_needed(
    tmp_path: Path, home: Path, wav_clips: list[bytes]
) -> None:
    demand = "".join(
        f'[models.{label}]\nmodel = "{KO}"\nload = "first_use"\n' for label in ("a", "b", "c")
    )
    # Room for two of them.
    with changing(tmp_path, home, demand, 'memory.limit = "1100MB"\n') as server:
        until(lambda: server.server.ask("/readyz").status == 200)
        for label in ("a", "b", "a"):
            server.model(wav_clips[0], f"?model={label}")
        assert server.states() == {"a": "ready", "b": "ready", "c": "unloaded"}
        server.model(wav_clips[0], "?model=c")
        assert server.states() == {"a": "ready", "b": "unloaded", "c": "ready"}
        (event,) = server.server.events("model.unloaded")
        assert (event["model"], event["reason"]) == ("b", "c needs its memory")


def test_whoever_waits_for_a_model_is_answered_when_the_server_stops(
    tmp_path: Path, home: Path, wav_clips: list[bytes]
) -> None:
    demand = f'[models.a]\nmodel = "{KO}"\nload = "first_use"\n'
    with (
        changing(tmp_path, home, demand) as server,
        concurrent.futures.ThreadPoolExecutor(1) as threads,
    ):
        asked = threads.submit(server.server.convert, wav_clips[0])
        server.server.wait_event("fork_server.started")
        assert server.server.stop() == 0
        assert asked.result().status == 200


# --- changing the models --------------------------------------------------------------------------


def only(model: str) -> str:
    return f'model = "{model}"'


@pytest.fixture
def single(tmp_path: Path, home: Path) -> Iterator[Changing]:
    with changing(tmp_path, home, only(KO)) as server:
        server.server.wait_ready()
        yield server


def test_the_model_changes_under_load_and_not_one_request_fails(
    single: Changing, wav_clips: list[bytes]
) -> None:
    over = threading.Event()
    heard: list[tuple[int, str]] = []

    def load() -> None:
        while not over.is_set():
            answer = single.server.convert(wav_clips[1])
            heard.append((answer.status, answer.json.get("model", "")))

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        running = [threads.submit(load) for _ in range(4)]
        old = single.server.fork_server()
        for model in (ZH, KO, ZH):
            single.settings(only(model))
            single.hang_up()
            at = len(heard)
            until(lambda at=at, model=model: any(m == model for _, m in heard[at:]), 30, model)
        over.set()
        for future in running:
            future.result()
    assert {status for status, _ in heard} == {200}
    # One change after the other: no request came back to the model before.
    assert next(model for model, _ in itertools.groupby(m for _, m in heard)) == KO
    until(lambda: not old.is_running(), 10, "the first fork server gone")
    assert [e["event"] for e in single.server.events("worker.start_failed")] == []


def test_changing_leaves_no_descriptor_behind(single: Changing) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{single.server.pid}/fd"))

    def change() -> int:
        server = single.server.fork_server()
        seen = single.hang_up()
        single.server.wait_event("fork_server.exited", seen, timeout_s=20, pid=server.pid)
        return descriptors()

    counts = [change() for _ in range(3)]
    until(lambda: descriptors() <= counts[0], what=f"no more than after the first of {counts}")


def test_settings_that_cannot_be_read_change_nothing(
    single: Changing, wav_clips: list[bytes]
) -> None:
    single.settings("model = 7")
    seen = single.hang_up()
    event = single.server.wait_event("server.reload_rejected", seen)
    assert "model = 7" in event["reason"]
    status, answer = single.admin("POST", "/admin/reload")
    assert (status, answer["error"]["code"]) == (422, "bad_settings")
    single.settings("no TOML")
    assert single.admin("POST", "/admin/reload")[0] == 422
    assert single.model(wav_clips[0]) == KO


def test_a_model_that_fails_to_load_leaves_the_old_one_serving(
    single: Changing, home: Path, wav_clips: list[bytes]
) -> None:
    broken = home / "broken"
    if not broken.exists():
        make_small_model(home / KO, broken, SMALL_WORDS.split(), table_of_all=True)
        (broken / "am" / "final.mdl").unlink()
        (broken / "am" / "final.mdl").write_bytes(b"no model")
    server = single.server.fork_server()
    for name in ("broken", "not-there"):
        single.settings(only(name))
        seen = single.hang_up()
        single.server.wait_event("model.renewal_failed", seen, timeout_s=20)
        assert single.model(wav_clips[0]) == KO
    assert server.is_running()
    assert single.server.ask("/readyz").status == 200


def test_what_needs_a_new_start_is_said(single: Changing, wav_clips: list[bytes]) -> None:
    single.settings(only(KO) + "\n[spool]\nmemory_total = 1000\n[limits]\nqueue = 3\nbody = 100\n")
    seen = single.hang_up()
    event = single.server.wait_event("settings.restart_required", seen)
    assert event["names"] == ["limits.queue", "spool.memory_total"]
    single.server.wait_event("model.loaded", seen, timeout_s=20)
    answer = single.server.convert(wav_clips[0])  # files that can be reused are
    assert (answer.status, answer.json["error"]["code"]) == (413, "body_too_large")


def test_a_model_that_was_changed_to_is_prepared_meanwhile(
    tmp_path: Path, home: Path, cache: Path, wav_clips: list[bytes]
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    share_compiler(cache, store)
    common = f'prepared_dir = "{store}"\n'
    with changing(tmp_path, home, only(KO), common, MODELSERVER_PREPARE="auto") as server:
        server.server.wait_ready()
        server.settings(only(ZH))  # before the first is prepared
        seen = server.hang_up()
        server.server.wait_event("prepare.done", seen, timeout_s=60, model=ZH)
        loaded = server.server.wait_event(
            "model.loaded", seen, timeout_s=30, model=ZH, graph="mapped"
        )
        assert loaded["mapped_bytes"] > 0
        until(lambda: server.health()["fork_server_pid"] == loaded["pid"])
        assert server.model(wav_clips[0]) == ZH


def test_models_come_and_go(
    tmp_path: Path, home: Path, clips: list[bytes], wav_clips: list[bytes]
) -> None:
    ko, zh = f'[models.ko]\nmodel = "{KO}"\n', f'[models.zh]\nmodel = "{ZH}"\n'
    with changing(tmp_path, home, ko) as server:
        server.server.wait_ready()
        assert server.server.convert(wav_clips[0], "?model=zh").status == 404
        server.settings(ko + zh)
        assert server.admin("POST", "/admin/reload")[0] == 202
        until(lambda: server.states().get("zh") == "ready", 20)
        assert server.model(wav_clips[0], "?model=zh") == ZH
        assert [worker["id"] for worker in server.health()["workers"]] == [0, 1]
        # A request is running in the one that goes: it is answered, and nothing waits for it.
        long = wav_file(b"".join(clips) * 5)
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            inside = threads.submit(server.model, long, "?model=ko")
            until(lambda: "busy" in [worker["state"] for worker in server.health()["workers"]])
            server.settings(zh)
            server.hang_up()
            until(lambda: server.states() == {"zh": "ready"}, 20)
            assert server.model(wav_clips[0]) == ZH
            assert not inside.done()
            assert inside.result() == KO
        until(lambda: len(server.server.tree()) == 3, 10, "the other model's processes gone")


def test_where_both_do_not_fit_the_old_one_goes_first(
    tmp_path: Path, home: Path, wav_clips: list[bytes]
) -> None:
    with changing(tmp_path, home, only(KO), 'memory.limit = "700MB"\n') as server:
        server.server.wait_ready()
        server.settings(only(ZH))
        seen = server.hang_up()
        event = server.server.wait_event("model.swap_started", seen, timeout_s=20)
        assert event["needs_bytes"] > event["left_bytes"]
        refused = until(lambda: (a := server.server.ask("/readyz")).status == 503 and a)
        assert "the model is being changed: " in refused.json["error"]["message"]
        server.server.wait_ready()
        assert server.model(wav_clips[0]) == ZH
        assert not server.server.events("guard.worker_ended", "guard.load_ended")


def test_where_both_do_not_fit_and_the_new_one_fails_the_old_one_comes_back(
    tmp_path: Path, home: Path, wav_clips: list[bytes]
) -> None:
    broken = tmp_path / "vosk-model-broken"
    make_small_model(home / KO, broken, SMALL_WORDS.split(), table_of_all=True)
    (broken / "am" / "final.mdl").unlink()
    (broken / "am" / "final.mdl").write_bytes(bytes(14_000_000))
    with changing(tmp_path, home, only(KO), 'memory.limit = "700MB"\n') as server:
        server.server.wait_ready()
        server.settings(only(str(broken)))
        seen = server.hang_up()
        server.server.wait_event("model.swap_started", seen, timeout_s=20)
        server.server.wait_event("model.rollback_started", seen, timeout_s=20)
        server.server.wait_ready()
        assert server.model(wav_clips[0]) == KO


def test_where_a_prediction_was_wrong_the_next_model_is_served(
    tmp_path: Path, home: Path, wav_clips: list[bytes]
) -> None:
    """A language model of states without arcs takes several times the memory of ordinary ones."""
    wrong = tmp_path / "vosk-model-wrong"
    make_small_model(home / KO, wrong, SMALL_WORDS.split(), table_of_all=True)
    add_rescoring(wrong, states=6_000_000, arcs_each=0, lm_ints=1_000_000)
    common = 'memory.limit = "750MB"\nengines.vosk.rescoring = "on"\n'
    with changing(tmp_path, home, f'model = ["{wrong}", "{ZH}"]', common) as server:
        server.server.wait_ready()
        assert server.model(wav_clips[0]) == ZH
        chosen = [event["model"] for event in server.server.events("model.chosen")]
        assert chosen == ["vosk-model-wrong", ZH]
        (ended,) = server.server.events("guard.load_ended")
        assert "of the model" in ended["reason"]
        (learned,) = server.server.events("model.mispredicted")
        assert learned["predicted_bytes"] < learned["held_bytes"] < learned["expected_bytes"]
        passed_over = server.server.events("model.skipped")[-1]["reason"]
        assert passed_over.startswith("vosk-model-wrong does not fit: it needs ")
        assert "as loading it has shown" in passed_over
