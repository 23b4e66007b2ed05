"""A server keeps watching its memory while a model is fetched onto a slow disk."""

import contextlib
import io
import itertools
import json
import os
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
from cgroup import slow_writes
from misbehaving import Manners, web_server
from running import start_server, until
from service_manager import Systemd

NAME = "vosk-model-de-0.21"
"""Model of the publisher's list that is large and has no checksum."""

MB = 1_000_000
SIZE = int(os.environ.get("TEST_SLOW_DISK_MB", "120")) * MB
"""Bytes of the model; a real one has up to 2,000 MB."""

BYTES_PER_S = 40 * MB
WATCHDOG_S = 2.0


def _archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        writer.writestr(f"{NAME}/am/final.mdl", os.urandom(SIZE // 2))
        writer.writestr(f"{NAME}/graph/HCLG.fst", os.urandom(SIZE // 2))
    return file.getvalue()


@pytest.mark.timeout(120 + 4 * SIZE // BYTES_PER_S)
def test_memory_is_watched_and_requests_are_answered_while_a_slow_disk_is_written_to(
    tmp_path: Path, small_settings: dict[str, str], wav_clips: list[bytes]
) -> None:
    readings, silences, answers = [0.0], [0.0], [0.0]
    with (
        slow_writes(tmp_path, 3 * SIZE + 100 * MB, BYTES_PER_S) as disk,
        contextlib.closing(Systemd(tmp_path / "notify")) as systemd,
        web_server(Manners({f"{NAME}.zip": _archive()})) as url,
        start_server(
            tmp_path,
            MODELSERVER_MODELS_URLS=url,
            MODELSERVER_MODELS_DIR=str(disk / "models"),
            MODELSERVER_JOBS_DIRECTORY=str(disk / "jobs"),
            MODELSERVER_SPOOL_DIRECTORY=str(disk),
            NOTIFY_SOCKET=str(systemd.path),
            WATCHDOG_USEC=str(int(WATCHDOG_S * 1e6)),
            **small_settings,
        ) as server,
    ):
        server.wait_ready()
        until(lambda: systemd.count("WATCHDOG") > 1)
        body = json.dumps({"name": NAME})
        command = ["curl", "-sf", "--unix-socket", str(server.admin), "--json", body]
        began = time.monotonic()
        subprocess.run([*command, "http://localhost/admin/models/pull"], check=True)
        available, changed = 0, began

        def installed() -> bool:
            nonlocal available, changed
            asked = time.monotonic()
            assert server.ask("/healthz").status == 200
            answers.append(time.monotonic() - asked)
            systemd.listen()
            if (now := server.health()["memory"]["available_bytes"]) != available:
                readings.append(time.monotonic() - changed)
                available, changed = now, time.monotonic()
            assert not server.events("model.pull_failed")
            return bool(server.events("model.pulled"))

        assert server.convert(wav_clips[0]).status == 200
        until(installed, 60 + 3 * SIZE / BYTES_PER_S)
        took_s = time.monotonic() - began
        fed = [at for at, name, _ in systemd.listen() if name == "WATCHDOG" and at >= began]
        silences += [later - at for at, later in itertools.pairwise(fed)]
        print(
            f"{SIZE / MB:.0f} MB in {took_s:.1f} s; without WATCHDOG=1 {max(silences):.2f} s,"
            f" between two readings {max(readings):.2f} s, for /healthz {max(answers):.3f} s"
        )
        assert took_s > 0.8 * SIZE / BYTES_PER_S, "the disk was not slow"
        assert len(fed) > took_s / WATCHDOG_S
        assert max(silences) < WATCHDOG_S
        assert max(readings) < 5
        assert max(answers) < 1
        assert (disk / "models" / NAME / "graph" / "HCLG.fst").stat().st_size == SIZE // 2
