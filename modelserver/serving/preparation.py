"""Preparing the served model while the server runs: a process of its own, with the lowest
priority, that ends with the server; tried again later where it could not be done."""

import asyncio
import contextlib
import enum
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
from supervisor import Cause, Guard, available_memory, end_with_parent

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")

_SERVING_RESERVE_BYTES = 512 * 1024 * 1024
"""What must stay available beside preparing, for the requests that come meanwhile."""


_FIRST_PAUSE_S, _PAUSE_FACTOR, _LONGEST_PAUSE_S = 5.0, 4.0, 3600.0
"""Between two attempts, where it was not the model's fault that one came to nothing."""

_NOT_ITS_FAULT = (Cause.GUARD, Cause.KERNEL_OOM, Cause.KILLED, Cause.TERMINATED)


class Outcome(enum.Enum):
    """What an attempt came to."""

    MADE = "made"
    NOT_NEEDED = "not_needed"
    LATER = "later"
    """Memory or disk were short, or somebody ended it."""
    FAILED = "failed"
    """It would fail again."""


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
    """Prepares the model that `settings` name. `progress` tells how far it is, None when nothing is
    being prepared; `why_not` why the last attempt came to nothing, None if it did not."""

    def __init__(self, settings: Settings, guard: Guard) -> None:
        self.settings = settings
        self.progress: ProgressLine | None = None
        self.why_not: str | None = None
        self._guard = guard

    async def until_made(self, note: str) -> bool:
        """Attempt it, and again later, as long as that may help; True once it is made."""
        pause_s = _FIRST_PAUSE_S
        while (outcome := await self.attempt(note)) is Outcome.LATER:
            log.info("prepare.later", in_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(_PAUSE_FACTOR * pause_s, _LONGEST_PAUSE_S)
        return outcome is Outcome.MADE

    async def attempt(self, note: str) -> Outcome:
        """Prepare the model if it is not, and if that can be afforded. `note`: what happens
        meanwhile, for the log. Cancelling ends the process."""
        self.why_not = None
        if not await asyncio.to_thread(self._needed):
            return Outcome.NOT_NEEDED
        try:
            await asyncio.to_thread(self._must_be_possible)
        except models.ModelError as error:
            self.why_not = error.message
            log.warning(
                "prepare.not_now",
                reason=error.message,
                consequence="served as it was published, a model is several times slower and "
                "takes several times the memory",
            )
            return Outcome.LATER if error.code == "cannot_afford" else Outcome.FAILED
        log.info("prepare.begins", note=note)
        return await self._run()

    def _needed(self) -> bool:
        """There is a model and it is not prepared. Reads disks."""
        try:
            return not is_prepared(self.settings, find_model(self.settings))
        except models.ModelError:
            return False

    def _must_be_possible(self) -> None:
        """Raises `ModelError` where it cannot be done, or not now. Reads disks."""
        location = find_model(self.settings)
        store = self.settings.prepared_dir
        if find_compiler(store) is None and not can_build():
            raise models.ModelError("no_compiler", f"there is no compiler for it ({HOW_TO_GET_IT})")
        spare = available_memory() - _SERVING_RESERVE_BYTES
        must_be_affordable(estimate_needs(location.directory), spare, store)

    async def _run(self) -> Outcome:
        command = [sys.executable, "-m", "modelserver", "models", "prepare"]
        command.append(f"--background={os.getpid()}")
        name = ", ".join(self.settings.model)
        environment = _environment(self.settings)
        async with self._guard.helper("preparation", command, environment) as helper:
            log.info("prepare.started", pid=helper.pid, model=name)
            try:
                async for line in helper.lines():
                    self._advanced(line)
                death = await helper.ended()
            finally:
                self.progress = None
        if death is None:
            log.info("prepare.done", model=name)
            return Outcome.MADE
        its_own = death.cause not in _NOT_ITS_FAULT
        self.why_not = helper.said.splitlines()[-1] if its_own and helper.said else death.sentence
        log.error("prepare.failed", model=name, reason=self.why_not)
        return Outcome.FAILED if its_own else Outcome.LATER

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
