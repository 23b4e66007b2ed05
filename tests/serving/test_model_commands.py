"""Model commands: a server runs them in a process beside it, continues meanwhile, and reports why
they failed."""

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import share_compiler
from misbehaving import Manners, web_server
from running import start_server, until

import models
from models.locks import hold
from models.prepared.manifest import key_of
from models.prepared.store import LOCK_PREFIX
from models.vosk.prepared import PreparedModel, can_build, prepared_models
from models.vosk.prepared.make import MAKER
from modelserver.access.gate import AccessGate
from modelserver.serving import preparation
from modelserver.serving.commands import Failure
from modelserver.serving.preparation import Outcome, Preparation
from modelserver.serving.reloading import Reloader
from modelserver.settings import Settings
from modelserver.settings.configuration import read_configuration
from supervisor import Cause

CHINESE = "vosk-model-small-cn-0.22"


@pytest.mark.timeout(120)
def test_a_download_does_not_block_the_server(
    tmp_path: Path, small_settings: dict[str, str]
) -> None:
    """Use a download whose hashing and unpacking never end."""
    home = tmp_path / "models"
    with (
        web_server(Manners({f"{CHINESE}.zip": b"x" * 43_898_754})) as url,
        start_server(
            tmp_path,
            MODELSERVER_MODELS_URLS=url,
            MODELSERVER_MODELS_DIR=str(home),
            **small_settings,
        ) as server,
    ):
        server.wait_ready()
        body = json.dumps({"name": CHINESE})
        command = ["curl", "-sf", "--unix-socket", str(server.admin), "--json", body]
        subprocess.run([*command, "http://localhost/admin/models/pull"], check=True)

        def puller() -> psutil.Process | None:
            return next((p for p in server.tree() if "pull" in _arguments(p)), None)

        process = until(puller, 30)
        process.send_signal(signal.SIGSTOP)
        until(lambda: process.status() == psutil.STATUS_STOPPED)
        for _ in range(20):
            assert server.ask("/healthz", timeout_s=5).status == 200
        process.send_signal(signal.SIGCONT)
        told = server.wait_event("model.pull_failed", timeout_s=60)
        assert "has a wrong checksum" in told["reason"]
        assert not (home / CHINESE).exists()


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@pytest.mark.timeout(120)
def test_a_model_that_another_process_prepares_is_used_once_it_is_made(
    tmp_path: Path,
    small: models.ModelLocation,
    prepared_small: PreparedModel,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    share_compiler(cache, store)
    lock = store / f"{LOCK_PREFIX}{key_of(MAKER.stamp_sources(small.directory), MAKER.version)}"
    with (
        hold(lock),
        start_server(
            tmp_path,
            f"--model={small.directory}",
            MODELSERVER_PREPARED_DIR=str(store),
            MODELSERVER_PREPARE="auto",
            MODELSERVER_WORKERS_COUNT="1",
        ) as server,
    ):
        told = server.wait_event("prepare.postponed", timeout_s=60)
        assert f"is being prepared by process {os.getpid()}" in told["reason"]
        server.wait_event("prepare.retry_scheduled")
        assert not server.events("prepare.failed")
        (store / prepared_small.directory.name).symlink_to(prepared_small.directory)
        server.wait_event("model.loaded", timeout_s=60, graph="mapped")
        assert len(list(prepared_models(store))) == 1


class Ended(Preparation):
    """A preparation whose attempts end so, one after the other."""

    def __init__(self, *failures: Failure | None) -> None:
        super().__init__(Settings(), None)  # type: ignore[arg-type]
        self.failures = list(failures)
        self.made = False

    def _needed(self) -> bool:
        return not self.made

    def _must_be_possible(self) -> None:
        pass

    def _tidy_up(self) -> None:
        pass


async def outcome_of(monkeypatch: pytest.MonkeyPatch, attempts: Ended) -> tuple[bool, list[float]]:
    """Return whether it succeeds in the end, and the pauses meanwhile."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def run(*_: Any, **__: Any) -> Failure | None:
        return attempts.failures.pop(0)

    monkeypatch.setattr(preparation, "run_models_command", run)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    return await attempts.until_made("meanwhile"), pauses


BUSY = Failure("being_prepared", "it is being prepared by process 1", Cause.EXITED)


async def test_what_may_succeed_later_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Failure("no_space", "the disk is full", Cause.EXITED)
    made, pauses = await outcome_of(monkeypatch, Ended(BUSY, BUSY, full, full, None))
    assert made
    assert pauses == [5, 5, 5, 20]


@pytest.mark.parametrize("code", ["failed_before", "answers_differ", "graph_too_large", ""])
async def test_what_would_fail_again_is_not(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    attempts = Ended(Failure(code, "it cannot be", Cause.EXITED))
    made, pauses = await outcome_of(monkeypatch, attempts)
    assert (made, pauses, attempts.why_not) == (False, [], "it cannot be")


async def test_attempts_that_others_end_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Failure("", "it was ended by the guard", Cause.GUARD)
    attempts = Ended(*[ended] * 100)
    made, pauses = await outcome_of(monkeypatch, attempts)
    assert not made
    assert len(pauses) == 4
    assert "5 attempts have ended so" in (attempts.why_not or "")


async def test_what_another_process_has_made_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Ended(BUSY)
    before = attempts.attempt

    async def attempt(note: str) -> Outcome:
        outcome = await before(note)
        attempts.made = True
        return outcome

    monkeypatch.setattr(attempts, "attempt", attempt)
    assert await outcome_of(monkeypatch, attempts) == (True, [5])
    assert await outcome_of(monkeypatch, attempts) == (False, [])  # nothing had to be made


class SlowModels(dict[str, Any]):
    """Models that take a moment to change; they count changes at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self.now = 0
        self.loaded: list[tuple[str, ...]] = []

    async def change(self, settings: Settings) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(5):
            await asyncio.sleep(0)
        self.loaded.append(settings.model)
        self.now -= 1


class SlowService:
    """A service with such models."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.access = AccessGate(lambda: self.settings.auth)
        self.models = SlowModels()
        self.reload_refused: str | None = None


async def test_a_change_of_the_model_waits_for_a_reload_and_a_reload_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODELSERVER_MODEL", "as-set")
    configuration = read_configuration(None, {"MODELSERVER_MODEL": "as-set"}, {})
    slow = SlowService(configuration.settings)
    reloader = Reloader(slow, configuration)  # type: ignore[arg-type]
    await asyncio.gather(
        reloader.reload(), reloader.serve("another"), reloader.reload(), reloader.serve("third")
    )
    assert slow.models.most == 1
    assert slow.models.loaded == [("as-set",), ("another",), ("as-set",), ("third",)]


async def test_one_that_another_process_ended_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failure = Failure("", "ended by SIGTERM", Cause.TERMINATED)
    logged: list[str] = []
    monkeypatch.setattr(preparation.log, "error", lambda event, **_: logged.append(event))
    attempts = Ended(failure, None)
    assert (await outcome_of(monkeypatch, attempts))[0]
    assert logged == []


@pytest.mark.parametrize(
    "script",
    ["kill -9 $$", "echo 'g++: fatal error: Killed signal terminated program cc1plus' >&2; exit 1"],
)
def test_a_compiler_that_was_ended_is_not_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    (tmp_path / "g++").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "g++").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(models.ModelError, match="ended") as raised:
        can_build()
    assert raised.value.code == "cannot_afford"
