"""Runs `modelserver models ...` in a process beside the server, with the lowest priority: what it
reports meanwhile, and how it ended."""

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from modelserver.settings import Settings
from modelserver.settings.changes import preparing_environment
from supervisor import Cause, Guard, end_with_parent


class ProgressLine(msgspec.Struct, frozen=True, tag="progress"):
    """A line that the process prints: its phase, and how much of that is done (`total`: 0 if that
    is not known)."""

    phase: str
    done: int
    total: int


class FailureLine(msgspec.Struct, frozen=True, tag="failure"):
    """The last line of a process that failed: code and message of the `models.ModelError`."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Failure of a process. `code`: of the `models.ModelError`, empty if it reported none; `cause`:
    how the process ended."""

    code: str
    reason: str
    cause: Cause


async def run_models_command(
    guard: Guard,
    role: str,
    arguments: Sequence[str],
    settings: Settings,
    on_progress: Callable[[ProgressLine], None],
    on_start: Callable[[int], None] = lambda _: None,
) -> Failure | None:
    """Run `modelserver models` with these arguments; return None if it succeeded. `on_start`
    receives its process id. Cancelling ends the process."""
    command = [sys.executable, "-P", "-m", "modelserver", "models", *arguments]
    command.append(f"--background={os.getpid()}")
    failure: FailureLine | None = None
    async with guard.helper(role, command, _environment(settings)) as helper:
        on_start(helper.pid)
        async for line in helper.lines():
            with contextlib.suppress(msgspec.DecodeError):
                said = msgspec.json.decode(line, type=ProgressLine | FailureLine)
                if isinstance(said, FailureLine):
                    failure = said
                else:
                    on_progress(said)
        death = await helper.ended()
    if death is None:
        return None
    if failure is not None:
        return Failure(failure.code, failure.message, death.cause)
    last = helper.said.splitlines()[-1] if helper.said else death.sentence
    return Failure("", death.sentence if death.cause in _BY_OTHERS else last, death.cause)


_BY_OTHERS = (Cause.GUARD, Cause.KERNEL_OOM, Cause.KILLED, Cause.TERMINATED)


def _environment(settings: Settings) -> Mapping[str, str]:
    """Return the environment of the process, with the settings of the server, wherever they came
    from."""
    return {**os.environ, **preparing_environment(settings)}


# --- in that process itself -----------------------------------------------------------------------


def in_background(server_pid: int) -> None:
    """Take processor and disk only when no other process wants them, be killed first, and end with
    the server that started this process."""
    if not end_with_parent(server_pid):
        raise SystemExit(1)
    os.nice(19)
    with contextlib.suppress(OSError, psutil.Error):
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def report(line: ProgressLine | FailureLine) -> None:
    """Tell the server that started this process."""
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()
