"""Preparing the served model while the server runs: a process of its own, with the lowest
priority, that ends with the server."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import msgspec
import psutil
import structlog

import models
from models.prepared import (
    HOW_TO_GET_IT,
    can_build,
    estimate_needs,
    find_compiler,
    must_be_affordable,
)
from modelserver.serving.targets import find_model, is_prepared
from modelserver.settings import Settings
from supervisor import available_memory, end_with_parent

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")

_SERVING_RESERVE_BYTES = 512 * 1024 * 1024
"""What must stay available beside preparing, for the requests that come meanwhile."""


class ProgressLine(msgspec.Struct, frozen=True):
    """One line that the preparing process prints: how far it is."""

    phase: str
    states: int
    expected: int

    def in_words(self) -> str:
        """For a person."""
        if self.phase != "graph" or self.expected == 0:
            return {"compiler": "building the graph compiler", "check": "comparing answers"}.get(
                self.phase, self.phase
            )
        return f"{min(99, 100 * self.states // self.expected)} % of its graph"


class Preparation:
    """Prepares the model that `settings` name, once. `progress` tells how far it is, None when
    nothing is being prepared."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.progress: ProgressLine | None = None

    def unaffordable_reason(self) -> str | None:
        """Why it should not be prepared now; None if it can be, or need not be. Reads disks."""
        try:
            location = find_model(self.settings)
            store = self.settings.prepared_dir
            if find_compiler(store) is None and not can_build():
                return f"there is no compiler for it ({HOW_TO_GET_IT})"
            spare = available_memory() - _SERVING_RESERVE_BYTES
            must_be_affordable(estimate_needs(location.directory), spare, store)
        except models.ModelError as error:
            return error.message
        return None

    def needed(self) -> bool:
        """There is a model and it is not prepared. Reads disks."""
        try:
            return not is_prepared(self.settings, find_model(self.settings))
        except models.ModelError:
            return False

    async def run(self) -> bool:
        """Prepare; True if the model is prepared then. Cancelling ends the process."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "modelserver", "models", "prepare"),
            f"--background={os.getpid()}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(self.settings),
        )
        log.info("prepare.started", pid=process.pid, model=self._name())
        assert process.stdout is not None
        assert process.stderr is not None
        errors = asyncio.create_task(process.stderr.read())
        try:
            while line := await process.stdout.readline():
                self._advanced(line)
            status = await process.wait()
            said = (await errors).decode(errors="replace").strip()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            errors.cancel()
            raise
        finally:
            self.progress = None
        if status == 0:
            log.info("prepare.done", model=self._name())
            return True
        reason = said.splitlines()[-1] if said else f"exit status {status}"
        log.error("prepare.failed", model=self._name(), reason=reason)
        return False

    def _name(self) -> str:
        return ", ".join(self.settings.model)

    def _advanced(self, line: bytes) -> None:
        with contextlib.suppress(msgspec.DecodeError):
            self.progress = msgspec.json.decode(line, type=ProgressLine)


def _environment(settings: Settings) -> dict[str, str]:
    """The process reads the same settings as we do, wherever ours came from."""
    ours = {
        "MODELSERVER_MODEL": ",".join(settings.model),
        "MODELSERVER_MODELS_DIR": settings.models_dir,
        "MODELSERVER_PREPARED_DIR": settings.prepared_dir,
        "MODELSERVER_LANGUAGE": settings.language,
        "MODELSERVER_BLAS": settings.blas,
    }
    return {**os.environ, **{name: str(value) for name, value in ours.items()}}


def lowest_priority(server_pid: int) -> None:
    """For the preparing process itself: processor and disk when nobody else wants them, killed
    first, and ended with the server that started it."""
    if not end_with_parent(server_pid):
        raise SystemExit(1)
    os.nice(19)
    with contextlib.suppress(OSError, psutil.Error):
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
