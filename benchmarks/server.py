"""The server that is measured, started as the tests start it."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from parts import PROGRAM, RunningServer, start_server

WORKERS = 2


@contextlib.contextmanager
def server(
    form: str,
    workers: int = WORKERS,
    before_exec: Callable[[], None] | None = None,
    program: tuple[str, ...] = PROGRAM,
    **settings: str,
) -> Iterator[RunningServer]:
    """Start a server with the embedded model, "prepared" or "plain", and all workers able."""
    with tempfile.TemporaryDirectory() as directory:
        given = {
            "MODELSERVER_WORKERS_COUNT": str(workers),
            "MODELSERVER_DEBUG_WARMUP": "clips",  # as users have it; tests do without
        }
        if form == "plain":
            given["MODELSERVER_PREPARED_DIR"] = directory
        given |= settings
        with start_server(
            Path(directory), before_exec=before_exec, program=program, **given
        ) as running:
            running.wait_whole(workers)
            yield running
