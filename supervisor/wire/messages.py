"""Messages between the supervisor, its fork servers and its workers: one union per direction.

Each is a tagged MessagePack map; descriptors (a socket, a spool, a pidfd) travel beside it.
Messages of a worker are untrusted: every field is checked while it is decoded, and values of a
model (`value`, `values`, `checkpoint`) travel as bytes that `supervisor.wire.payload` decodes.
"""

import math
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec

from supervisor.settings import Sandbox

LONGEST_VALUE_BYTES = 8 * 1024 * 1024 - 64 * 1024
"""Bytes of a model's encoded value in one message, at most."""
LONGEST_CHECKPOINT_BYTES = 512 * 1024
_LONGEST_TEXT, _LONGEST_CODE = 16 * 1024, 100
_MOST_SECONDS, _MOST_UNITS = 1e6, 1e9

Number = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
"""Number of a job, a stream, an input or a ticket."""
Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=_MOST_SECONDS)]
Units = Annotated[float, msgspec.Meta(ge=0, le=_MOST_UNITS)]
Text = Annotated[str, msgspec.Meta(max_length=_LONGEST_TEXT)]
Code = Annotated[str, msgspec.Meta(max_length=_LONGEST_CODE)]
Value = Annotated[bytes, msgspec.Meta(max_length=LONGEST_VALUE_BYTES)]
Checkpoint = Annotated[bytes, msgspec.Meta(max_length=LONGEST_CHECKPOINT_BYTES)]
Names = Annotated[list[Code], msgspec.Meta(max_length=32)]
Sentences = Annotated[list[Text], msgspec.Meta(max_length=32)]


class ProtocolError(Exception):
    """Message that the protocol does not allow."""


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of all messages; the class name is the tag on the wire."""

    descriptors: ClassVar[tuple[int, ...]] = (0,)
    """Numbers of descriptors that may travel beside it."""


# --- supervisor to fork server --------------------------------------------------------------------


class Load(Message, frozen=True):
    """Load `function` of `module` with `options`, with temporary files in the directory `scratch`,
    at a priority lower by `nice`. It is the first message to a fork server."""

    module: str
    function: str
    options: dict[str, Any]
    import_path: list[str]
    scratch: str
    heartbeat_s: float
    nice: int
    sandbox: Sandbox


class Fork(Message, frozen=True):
    """Fork a worker. Descriptors: the worker's end of its channel, its page, and the pipe for its
    standard output and error."""

    descriptors: ClassVar[tuple[int, ...]] = (3,)

    ticket: Number


class Trim(Message, frozen=True):
    """Return freed memory to the kernel. Sent to workers, too."""


# --- fork server to supervisor --------------------------------------------------------------------


class Loaded(Message, frozen=True):
    """Model is in memory and warm; forks may be requested. `sandbox`: measures that workers will
    have in force; `sandbox_missing`: why not the others."""

    load_s: Seconds
    warm_s: Seconds
    report: dict[str, Any]
    sandbox: Names = []
    sandbox_missing: Sentences = []


class LoadFailed(Message, frozen=True):
    """Loading raised `error`; the fork server exits. `refused`: it was a `LoadRefused`."""

    error: Text
    traceback: Text
    refused: bool = False


class Forked(Message, frozen=True):
    """Worker exists, as a child of the supervisor. Descriptor: its pidfd."""

    descriptors: ClassVar[tuple[int, ...]] = (1,)

    ticket: Number
    pid: Number


class ForkFailed(Message, frozen=True):
    """Kernel refused the fork (memory or process limits)."""

    ticket: Number
    error: Text


# --- supervisor to worker -------------------------------------------------------------------------


class Run(Message, frozen=True):
    """Run a job. Descriptor: the spool, if `spool_bytes` is not None."""

    descriptors: ClassVar[tuple[int, ...]] = (0, 1)

    job: Number
    request: dict[str, Any]
    spool_bytes: Bytes | None


class Cancel(Message, frozen=True):
    """Stop the job at the next step: its result is not wanted."""

    job: Number


class Open(Message, frozen=True):
    """Begin a stream, or resume it after another worker: `before` units of its input are not
    replayed, `checkpoint` is the last one, and answers to inputs up to the number `answered` have
    been given. `since`: when the oldest unanswered input came (seconds of CLOCK_MONOTONIC).
    `background`: it gets the steps that live streams and files leave."""

    stream: Number
    request: dict[str, Any]
    before: float
    checkpoint: bytes | None
    answered: int
    since: float
    background: bool


class Feed(Message, frozen=True):
    """Next input of a stream, numbered from 1; `at`: when it came (seconds of CLOCK_MONOTONIC)."""

    stream: Number
    number: Number
    data: Any
    at: float


class Drop(Message, frozen=True):
    """Forget the stream."""

    stream: Number


class Leave(Message, frozen=True):
    """Exit with status 0 after the job at hand, if there is one, and once no stream is left."""


# --- worker to supervisor -------------------------------------------------------------------------


class Ready(Message, frozen=True):
    """Worker takes jobs. `in_force`: its sandbox measures. Descriptor: the listener for its
    forbidden calls, if it has a system call filter."""

    descriptors: ClassVar[tuple[int, ...]] = (0, 1)

    in_force: Names


class Progress(Message, frozen=True):
    """Progress of the running job, encoded."""

    job: Number
    value: Value


class Done(Message, frozen=True):
    """Result of the job, encoded."""

    job: Number
    value: Value


class Failed(Message, frozen=True):
    """Exception of the job. `code` is None unless it was a `JobError`."""

    job: Number
    code: Code | None
    message: Text
    traceback: Text


class Cancelled(Message, frozen=True):
    """Job was stopped and forgotten."""

    job: Number


class Fed(Message, frozen=True):
    """Answer of a stream to an input (see `StreamAnswer`); `values` is an encoded list. `ran_s`:
    its processor time, as the worker counts it."""

    stream: Number
    number: Number
    values: Value
    at_checkpoint: bool
    checkpoint: Checkpoint | None
    units: Units
    ran_s: Seconds


class StreamFailed(Message, frozen=True):
    """Exception of a stream, which is forgotten. `code` as in `Failed`."""

    stream: Number
    code: Code | None
    message: Text
    traceback: Text


M = TypeVar("M")

ToForkServer = Load | Fork | Trim
FromForkServer = Loaded | LoadFailed | Forked | ForkFailed
ToWorker = Run | Cancel | Open | Feed | Drop | Leave | Trim
FromWorker = Ready | Progress | Done | Failed | Cancelled | Fed | StreamFailed

encode = msgspec.msgpack.Encoder().encode
to_fork_server = msgspec.msgpack.Decoder(ToForkServer)
from_fork_server = msgspec.msgpack.Decoder(FromForkServer)
to_worker = msgspec.msgpack.Decoder(ToWorker)
from_worker = msgspec.msgpack.Decoder(FromWorker)

_FLOATS = ("units", "ran_s", "load_s", "warm_s")


def decode(decoder: "msgspec.msgpack.Decoder[M]", body: bytes, descriptors: int) -> M:
    """Decode one message of that direction. Raises `ProtocolError` if it is not one, if a number is
    not finite, or if another number of descriptors came with it."""
    try:
        message = decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, MemoryError) as error:
        raise ProtocolError(f"not a message: {error}") from error
    if not all(math.isfinite(getattr(message, name, 0.0)) for name in _FLOATS):
        raise ProtocolError(f"{type(message).__name__} with a number that is not finite")
    if descriptors not in message.descriptors:  # type: ignore[attr-defined] # all are Messages
        raise ProtocolError(f"{type(message).__name__} with {descriptors} descriptors")
    return message


def sendable(text: str, most: int = _LONGEST_TEXT) -> str:
    """Make `text` encodable: lone surrogates are escaped, and it is cut to its last `most`
    characters."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")[-most:]
