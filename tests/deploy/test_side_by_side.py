"""Servers of one user side by side: `make serve` twice, and a server beside `modelserver models
prepare`. Each reports the files that they share, and works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import share_compiler
from places import ROOT
from running import start_server, until

import models

MAKE = ("-C", str(ROOT), f"VENV={sys.prefix}", f"--assume-old={sys.prefix}/.serve")


@pytest.fixture
def shared(tmp_path: Path, small: models.ModelLocation, cache: Path) -> dict[str, str]:
    """The variables of both servers: the directories and the admin socket of one user."""
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    share_compiler(cache, prepared)
    return {
        "XDG_RUNTIME_DIR": str(tmp_path),
        "MODELSERVER_ADMIN_LISTEN": "auto",
        "MODELSERVER_DEBUG_WARMUP": "none",
        "MODELSERVER_JOBS_DIRECTORY": str(tmp_path / "jobs"),
        "MODELSERVER_MODEL": str(small.directory),
        "MODELSERVER_PREPARED_DIR": str(prepared),
        "MODELSERVER_WORKERS_COUNT": "1",
    }


def test_make_serve_a_second_time_names_what_is_taken_and_serves_on_another_port(
    tmp_path: Path, shared: dict[str, str], wav_clips: list[bytes]
) -> None:
    (tmp_path / "second").mkdir()
    with start_server(tmp_path, python="make", program=MAKE, **shared) as first:
        first.wait_event("admin.started")
        refused = subprocess.run(
            ["make", *MAKE, "serve"],
            env={**os.environ, **shared, "MODELSERVER_PORT": str(first.port)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert refused.returncode == 2
        assert "set another --port (MODELSERVER_PORT) for this one" in refused.stderr
        with start_server(tmp_path / "second", python="make", program=MAKE, **shared) as second:
            without_admin = second.wait_event("admin.start_failed")["reason"]
            assert "another server listens there" in without_admin
            without_jobs = second.wait_event("jobs.disabled")["reason"]
            assert "give this one another jobs.directory" in without_jobs
            for server in (first, second):
                server.wait_ready()
                assert server.convert(wav_clips[0]).status == 200


def test_a_server_and_the_command_prepare_a_model_once(
    tmp_path: Path, shared: dict[str, str], small: models.ModelLocation, wav_clips: list[bytes]
) -> None:
    with start_server(tmp_path, **shared | {"MODELSERVER_PREPARE": "auto"}) as server:
        preparing = server.wait_event("prepare.started")["pid"]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "modelserver", "models", "prepare", small.directory],
            env={**os.environ, **shared, "MODELSERVER_CONFIG": os.devnull},
            capture_output=True,
            text=True,
            check=False,
        )
        # A server that is done by then leaves nothing to do.
        assert (
            done.returncode == 0 or f"process {preparing}; its result will be used" in done.stderr
        )
        until(
            lambda: server.events("model.loaded")[-1]["form"].startswith("prepared"),
            30,
            "the prepared model served",
        )
        assert server.convert(wav_clips[0]).status == 200
    assert len(list(Path(shared["MODELSERVER_PREPARED_DIR"]).glob("small*/"))) == 1
