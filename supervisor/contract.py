"""The contract between workers and the model that they serve.

A model is loaded by a function, `load(**options)`, once, in the fork server. Every worker inherits
the object that it returns through fork; only `run` is required of it.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from supervisor.spool_view import SpoolView


class LoadError(Exception):
    """Failure to load a model. The operator is shown its text alone; for any other exception, the
    name of the class, too."""


class LoadRefused(LoadError):
    """Failure to load that would be the same if it were tried again: the operator has to change
    something first."""


class Servable(Protocol):
    """Protocol of a loaded model."""

    def run(self, request: dict[str, Any], spool: SpoolView | None) -> Generator[Any, None, Any]:
        """Do one job, step by step.

        Each `yield` ends a step of at most a few hundred milliseconds. After it the worker shows
        that it lives and checks whether the job is still wanted; if not, the generator is closed. A
        yielded value is sent to the caller as progress unless it is None; the returned value is the
        result. Both consist of types that MessagePack can carry. Raises `JobError` to refuse the
        job with a code and a sentence.
        """
        ...


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """Answer of a stream's session to one input, of types that MessagePack can carry."""

    values: list[Any]
    at_checkpoint: bool = False
    """True if a new session, opened with the same request and `checkpoint` and fed with the inputs
    after this one, would give the same answers: a replay starts after this input."""
    checkpoint: Any = None
    """State from which a session on another worker resumes; None: the last one stays valid. Without
    `at_checkpoint` the replay starts earlier, and the session skips input that it has processed."""
    units: float = 0.0
    """Size of this input, in units of the caller's choice."""


class StreamSession(Protocol):
    """Protocol of one stream on a worker: messages in, messages out."""

    def feed(self, data: Any, *, quiet: bool) -> Generator[None, None, StreamAnswer]:
        """Process the next input; return its answer.

        Each `yield` ends a step of at most some ten milliseconds, after which other streams have
        their turn. `quiet`: the input is replayed and was answered on another worker; the answer is
        discarded unless it is at a checkpoint. Raises `JobError` to end the stream with a code and
        a sentence.
        """
        ...

    def close(self) -> None:
        """End the session: the stream has ended, or continues on another worker."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """Protocol of a model that takes streams beside its jobs."""

    def open(self, request: dict[str, Any], before: float, checkpoint: Any) -> StreamSession:
        """Begin a stream, or resume it. Raises `JobError`.

        `before` units of its input came on another worker and are not replayed; `checkpoint` is the
        last one given there, or None.
        """
        ...


@runtime_checkable
class Warmable(Protocol):
    """Protocol of a model that can be warmed up before the first fork."""

    def warm(self) -> None:
        """Do the work that the first requests would otherwise have to do."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """Protocol of a model that reports how it was loaded."""

    def report(self) -> dict[str, Any]:
        """Return facts for logs and status pages, of types that MessagePack can carry."""
        ...
