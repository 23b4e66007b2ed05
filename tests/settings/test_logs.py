"""Logs whose output blocks, or is gone: the server continues, and ends when told. Recent events can
be requested."""

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TextIO, cast

import pytest
import structlog
from running import READY_S, Answer, ask, until

from modelserver.logs import PatientStream, RecentEvents
from modelserver.timestamps import timestamp


class Reader:
    """A stream whose reader takes nothing until it is told to."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.lines: list[str] = []

    def write(self, text: str) -> int:
        self.may.wait()
        self.lines.append(text)
        return len(text)

    def flush(self) -> None:
        pass


def test_who_logs_does_not_wait_for_who_reads_and_lines_that_are_too_many_are_counted(
    monkeypatch: pytest.MonkeyPatch, events: list[structlog.typing.EventDict]
) -> None:
    monkeypatch.setattr("modelserver.logs._MOST_LINES", 5)
    reader = Reader()
    stream = PatientStream(cast("TextIO", reader))
    for number in range(20):
        stream.write(f"{number}\n")  # at once, or this test would never end
    reader.may.set()
    stream.close()
    written = len(reader.lines)
    assert written in (5, 6)  # one may have been in the thread's hand
    assert reader.lines == [f"{number}\n" for number in range(written)]
    assert events == [{"event": "log.lines_dropped", "lines": 20 - written, "log_level": "warning"}]


@contextlib.contextmanager
def server_logging_to(directory: Path, descriptor: int) -> Iterator[int]:
    """Give the port of a server without a model, which logs that repeatedly."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = [f"--port={port}", f"--model={directory}/none", "--log-level=debug"]
    flags += [f"--admin-listen=unix:{directory}/admin.sock"]
    process = subprocess.Popen(
        [sys.executable, "-m", "modelserver", "serve", *flags], stderr=descriptor
    )
    os.close(descriptor)
    try:
        yield port
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def healthy(port: int) -> Answer | None:
    with contextlib.suppress(OSError):
        return ask(f"http://127.0.0.1:{port}/healthz")
    return None


def test_a_server_whose_log_nobody_reads_goes_on_and_ends_when_told_to(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        with server_logging_to(tmp_path, writing) as port:
            until(lambda: healthy(port), READY_S)
            # More than a pipe holds.
            for _ in range(600):
                assert ask(f"http://127.0.0.1:{port}/nothing/" + "x" * 100).status == 404
            assert len(os.read(reading, 1 << 20)) >= 1 << 15
    finally:
        os.close(reading)


def test_a_server_whose_logs_reader_is_gone_goes_on_and_ends_when_told_to(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with server_logging_to(tmp_path, writing) as port:
        until(lambda: healthy(port), READY_S)
        os.close(reading)
        for _ in range(20):
            assert ask(f"http://127.0.0.1:{port}/nothing").status == 404
        assert ask(f"http://127.0.0.1:{port}/healthz").status == 200


@pytest.mark.parametrize("without", [True, False])
def test_a_terminal_shows_colours_unless_they_are_not_wanted(without: bool) -> None:
    terminal, other = pty.openpty()
    lines = (
        "import structlog; from modelserver.logs import configure_logs; "
        "from modelserver.settings import LogSettings; "
        "configure_logs(LogSettings()); structlog.get_logger().info('told')"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    environment |= {"TERM": "xterm"} | ({"NO_COLOR": "1"} if without else {})
    subprocess.run([sys.executable, "-c", lines], stderr=other, env=environment, check=True)
    said = os.read(terminal, 65536)
    os.close(other)
    os.close(terminal)
    assert b"told" in said
    assert (b"\x1b[" in said) != without


def test_whatever_is_logged_is_remembered_and_told() -> None:
    recent = RecentEvents()
    told = [
        {"event": "one", "path": Path("/a"), "names": ("b", "c"), "share": 0.5},
        {"event": "two", "name": os.fsdecode(b"half \xff"), "count": 1},
        {"event": "three", "count": 1 << 70},
        {"event": "four", "error": OSError(2, "not there")},
    ]
    for event in told:
        assert recent.remember(None, "info", event) is event
    assert recent.since(0) == [
        {"number": 1, "event": "one", "path": "/a", "names": ["b", "c"], "share": 0.5},
        {"number": 2, "event": "two", "name": "half \\udcff", "count": "1"},
        {"number": 3, "event": "three", "count": str(1 << 70)},
        {"number": 4, "event": "four", "error": "[Errno 2] not there"},
    ]
    for number in range(1000):
        recent.remember(None, "info", {"event": str(number)})
    assert [event["number"] for event in recent.since(1001)] == [1002, 1003, 1004]
    assert recent.since(0)[0] == {"number": 505, "event": "500"}


@pytest.mark.quick
def test_timestamps_are_alike_in_length_so_that_texts_sort_by_time() -> None:
    moments = [0.0, 1_764_512_399.0, 1_764_512_399.268, 1_764_512_400.0]
    texts = [timestamp(moment) for moment in moments]
    assert texts[0] == "1970-01-01T00:00:00.000000Z"
    assert texts == sorted(texts)
    assert [datetime.fromisoformat(text).timestamp() for text in texts] == moments
