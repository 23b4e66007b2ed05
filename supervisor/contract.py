"""What a model must offer to be served: the contract between the supervisor's workers and it.

A model is loaded by a function, `load(**options)`, once, in the fork server. What it returns is
inherited by every worker through fork; only `run` is required of it.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from supervisor.spool_view import SpoolView


class LoadError(Exception):
    """Raised by a function that loads a model. The operator reads its text alone; of any other
    exception, the name of the class as well."""


class LoadRefused(LoadError):
    """Raised instead if loading it again would end the same way: the operator has to change
    something first."""


class Servable(Protocol):
    """A loaded model."""

    def run(self, request: dict[str, Any], spool: SpoolView | None) -> Generator[Any, None, Any]:
        """Do one job, step by step.

        A generator: each `yield` ends a step of at most a few hundred milliseconds, after which
        the worker shows that it lives and looks whether the job is still wanted (if not, the
        generator is closed). What it yields is sent to the caller as progress unless it is None;
        what it returns is the result. Both are made of what MessagePack can carry. Raises
        `JobError` to refuse the job with a code and a sentence.
        """
        ...


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """Answer of a stream's session to an input, of what MessagePack can carry."""

    values: list[Any]
    at_checkpoint: bool = False
    """A new session, opened with the same request and `checkpoint` and fed with the inputs after
    this one, would give the same answers: a replay starts after this input."""
    checkpoint: Any = None
    """State that a session on another worker resumes from; None: the last one stays valid. Without
    `at_checkpoint` the replay starts earlier, and the session skips what it has done already."""
    units: float = 0.0
    """Size of this input, in units of the caller's choice."""


class StreamSession(Protocol):
    """One stream on a worker: messages in, messages out."""

    def feed(self, data: Any, *, quiet: bool) -> Generator[None, None, StreamAnswer]:
        """Take the next input; each `yield` ends a step of at most some ten milliseconds, after
        which others have their turn. `quiet`: it is replayed, and was answered on another
        worker: the answer is discarded unless it is at a checkpoint.

        Returns its answer. Raises `JobError` to end the stream with a code and a
        sentence.
        """
        ...

    def close(self) -> None:
        """End the session: the stream is over, or goes on elsewhere."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A model that takes streams beside its jobs."""

    def open(self, request: dict[str, Any], before: float, checkpoint: Any) -> StreamSession:
        """Begin a stream, or resume it: `before` units of its input came on another worker and are
        not replayed; `checkpoint` is the last that was given there, None if there was none. Raises
        `JobError`."""
        ...


@runtime_checkable
class Warmable(Protocol):
    """A model that can be made as fast as it will ever be, before the first fork."""

    def warm(self) -> None:
        """Do what the first requests would otherwise have to."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """A model that tells the supervisor how it was loaded."""

    def report(self) -> dict[str, Any]:
        """Facts for logs and status pages, of what MessagePack can carry."""
        ...
