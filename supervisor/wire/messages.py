"""The messages between the supervisor, its fork servers and its workers.

Each is a tagged MessagePack map; descriptors (a socket, a spool, a pidfd) travel beside it.
"""

from typing import Any

import msgspec

from supervisor.processes.environment import Sandbox


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of all messages; the class name is the tag on the wire."""


class Load(Message, frozen=True):
    """Supervisor to fork server, first of all: load `function` of `module` with `options`, with
    temporary files in the directory `scratch`, at a priority that is lower by `nice`."""

    module: str
    function: str
    options: dict[str, Any]
    import_path: list[str]
    scratch: str
    records: int
    heartbeat_s: float
    nice: int
    sandbox: Sandbox


class Loaded(Message, frozen=True):
    """Fork server to supervisor: the model is in memory and warm; forks may be asked for.
    `sandbox`: what workers will have given up, and why not the rest."""

    load_s: float
    warm_s: float
    report: dict[str, Any]
    sandbox: list[str] = []
    sandbox_missing: list[str] = []


class LoadFailed(Message, frozen=True):
    """Fork server to supervisor: loading raised `error`; the fork server exits."""

    error: str
    traceback: str


class Fork(Message, frozen=True):
    """Supervisor to fork server: fork a worker. Descriptor: the worker's end of its channel."""

    ticket: int
    record: int


class Forked(Message, frozen=True):
    """Fork server to supervisor: the worker exists. Descriptor: its pidfd."""

    ticket: int
    pid: int


class ForkFailed(Message, frozen=True):
    """Fork server to supervisor: the kernel refused the fork (memory or process limits)."""

    ticket: int
    error: str


class Reaped(Message, frozen=True):
    """Fork server to supervisor: a worker ended (`exit_code`, or `signal`, is None)."""

    pid: int
    exit_code: int | None
    signal: int | None


class Ready(Message, frozen=True):
    """Worker to supervisor: jobs may be sent. `anonymous_bytes`: what it shares from birth.
    Descriptor: what its sandbox tells of forbidden calls on, if it is in one."""

    anonymous_bytes: int


class Run(Message, frozen=True):
    """Supervisor to worker: run a job. Descriptor: the spool, if `spool_bytes` is not None."""

    job: int
    request: dict[str, Any]
    spool_bytes: int | None


class Cancel(Message, frozen=True):
    """Supervisor to worker: stop the job at the next step, its result is not wanted."""

    job: int


class Open(Message, frozen=True):
    """Supervisor to worker: a stream begins, or goes on here after another worker, when `before`
    units of its input need not be told again, `mark` is where it was settled last, and answers to
    inputs up to the number `answered` have been given. `since`: when the oldest input came that is
    not answered. `background`: it has its turns when there is nothing else to do."""

    stream: int
    request: dict[str, Any]
    before: float
    mark: Any
    answered: int
    since: float
    background: bool


class Feed(Message, frozen=True):
    """Supervisor to worker: what came next on a stream, numbered from 1; `at`: when (seconds of
    CLOCK_MONOTONIC)."""

    stream: int
    number: int
    data: Any
    at: float


class Drop(Message, frozen=True):
    """Supervisor to worker: the stream is not its any more."""

    stream: int


class Fed(Message, frozen=True):
    """Worker to supervisor: what a stream says to that input (see `StreamAnswer`). `ran_s`: the
    processor time that it took."""

    stream: int
    number: int
    values: list[Any]
    settled: bool
    mark: Any
    units: float
    ran_s: float


class StreamFailed(Message, frozen=True):
    """Worker to supervisor: the stream raised, and is forgotten. `code` as in `Failed`."""

    stream: int
    code: str | None
    message: str
    traceback: str


class Trim(Message, frozen=True):
    """Supervisor to worker or fork server: give freed memory back to the kernel."""


class Leave(Message, frozen=True):
    """Supervisor to worker: exit with status 0 after the job at hand, if there is one."""


class Progress(Message, frozen=True):
    """Worker to supervisor: what the running job yielded."""

    job: int
    value: Any


class Done(Message, frozen=True):
    """Worker to supervisor: the job's result, and what it cost the worker.

    `growth_bytes` is the worker's anonymous memory now, less what it had when it was forked.
    """

    job: int
    value: Any
    run_s: float
    growth_bytes: int


class Failed(Message, frozen=True):
    """Worker to supervisor: the job raised. `code` is None unless it was a `JobError`."""

    job: int
    code: str | None
    message: str
    traceback: str


class Cancelled(Message, frozen=True):
    """Worker to supervisor: the job was stopped and forgotten."""

    job: int


AnyMessage = (
    Load
    | Loaded
    | LoadFailed
    | Fork
    | Forked
    | ForkFailed
    | Reaped
    | Ready
    | Run
    | Cancel
    | Leave
    | Open
    | Feed
    | Drop
    | Fed
    | StreamFailed
    | Trim
    | Progress
    | Done
    | Failed
    | Cancelled
)

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(AnyMessage).decode
