"""What a model must offer to be served: the contract between the supervisor's workers and it.

A model is loaded by a function, `load(**options)`, once, in the fork server. What it returns is
inherited by every worker through fork; only `run` is required of it.
"""

from collections.abc import Generator
from typing import Any, Protocol, runtime_checkable

from supervisor.spool import SpoolView


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


class StreamSession(Protocol):
    """One stream on a worker: messages in, messages out."""

    def feed(self, data: Any) -> Generator[None, None, tuple[list[Any], bool]]:
        """Take the next input; each `yield` ends a step of at most some ten milliseconds, after
        which others have their turn.

        Returns what the stream says to it, and whether it is settled: a new session, opened with
        the same request and fed with what comes after, would say the same from here on. Raises
        `JobError` to end the stream with a code and a sentence.
        """
        ...

    def close(self) -> None:
        """It is over, or goes on elsewhere."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A model that takes streams beside its jobs."""

    def open(self, request: dict[str, Any], before: float) -> StreamSession:
        """A stream begins, or goes on: `before` units of its input came and were settled on
        another worker. Raises `JobError`."""
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
