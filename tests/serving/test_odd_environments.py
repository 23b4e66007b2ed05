"""Environments that service managers, containers and shells make: the server works in them, or says
in a sentence why it does not."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import PROGRAM, free_port, start_server, until

import models
from modelserver.ready import NotReady, ask


@pytest.fixture
def settings(small: models.ModelLocation, tmp_path: Path) -> dict[str, str]:
    return {
        "MODELSERVER_MODEL": str(small.directory),
        "MODELSERVER_WORKERS_COUNT": "1",
        "MODELSERVER_PREPARE": "never",
        "MODELSERVER_DEBUG_WARMUP": "none",
        "MODELSERVER_CONFIG": os.devnull,
        "MODELSERVER_JOBS_DIRECTORY": str(tmp_path / "jobs"),
        "MODELSERVER_ADMIN_LISTEN": "off",
    }


def as_utf8(home: Path) -> Path:
    return home / "模型 one"


@pytest.mark.parametrize(
    ("place", "variables"),
    [
        (as_utf8, {"LANG": "zh_CN.UTF-8", "LC_ALL": "zh_CN.UTF-8"}),
        (as_utf8, {"LANG": "C", "LC_ALL": "C"}),
        (as_utf8, {"TMPDIR": "/nonexistent", "HOME": "/nonexistent", "TZ": "Nowhere/Odd"}),
    ],
)
def test_a_model_is_served_from_any_utf8_path(
    small: models.ModelLocation,
    settings: dict[str, str],
    wav_clips: list[bytes],
    tmp_path: Path,
    place: Callable[[Path], Path],
    variables: dict[str, str],
) -> None:
    (link := place(tmp_path)).symlink_to(small.directory)
    given = settings | variables | {"MODELSERVER_MODEL": str(link)}
    given["MODELSERVER_ADMIN_LISTEN"] = f"unix:{tmp_path}/admin.sock"
    with start_server(tmp_path, **given) as server:
        server.wait_ready()
        assert server.convert(wav_clips[0]).status == 200
        assert not server.events("model.start_failed")


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        (b"m\xff\xfel", {}),
        ("模型".encode(), {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    ],
)
def test_a_path_that_is_not_utf8_is_refused_in_a_sentence(
    small: models.ModelLocation,
    settings: dict[str, str],
    tmp_path: Path,
    name: bytes,
    variables: dict[str, str],
) -> None:
    (tmp_path / "models").mkdir()
    path = os.fsencode(tmp_path / "models") + b"/" + name
    shutil.copytree(os.fsencode(small.directory), path, symlinks=True)
    done = subprocess.run(
        [sys.executable, *PROGRAM, "doctor", "--model", path],
        env=os.environ | settings | variables,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"the path of a model has to be UTF-8" in done.stdout
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "redirected", ["<&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full", "2>&1 | head -1"]
)
def test_a_log_or_terminal_that_is_gone_stops_nothing(
    settings: dict[str, str], tmp_path: Path, redirected: str
) -> None:
    port = free_port()
    program = f"{sys.executable} {' '.join(PROGRAM)} serve & echo $! >pid; wait $!; echo $? >status"
    with subprocess.Popen(
        ["sh", "-c", f"({program}) {redirected}"],
        cwd=tmp_path,
        env=os.environ | settings | {"MODELSERVER_PORT": str(port)},
        stdin=subprocess.DEVNULL,
    ) as shell:
        try:
            until(lambda: is_ready(port), 60, "ready")
        finally:
            os.kill(int((tmp_path / "pid").read_text()), 15)
            shell.wait(30)
    assert (tmp_path / "status").read_text() == "0\n"


def is_ready(port: int) -> bool:
    try:
        return bool(ask("127.0.0.1", port, 2.0))
    except NotReady:
        return False


def test_too_few_descriptors_are_refused_in_a_sentence(
    settings: dict[str, str], tmp_path: Path
) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    program = f"ulimit -n 40; exec {sys.executable} {' '.join(PROGRAM)} serve --port 0"
    done = subprocess.run(
        [shell, "-c", program],
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert (
        "a process may open 40 files (ulimit -n), and the server needs at least 64" in done.stderr
    )
    assert "Traceback" not in done.stderr
