"""A job, as it is stored."""

from typing import Literal

import msgspec

from modelserver.speech.messages import Speech, SpeechRequest

State = Literal["waiting", "running", "done", "failed"]
STATES: tuple[State, ...] = ("waiting", "running", "done", "failed")
UNFINISHED: tuple[State, ...] = ("waiting", "running")


class Failure(msgspec.Struct, frozen=True):
    """The error of a job that has failed; `code` as in error documents."""

    code: str
    message: str


class Shown(msgspec.Struct, frozen=True, omit_defaults=True):
    """The form of a job's transcript where a request asks for no other."""

    format: str = "json"
    words: bool = False
    segments: bool = False


class Wanted(msgspec.Struct, frozen=True, omit_defaults=True):
    """Request of a job. `model`, `language`: of `ModelRegistry.find`; `warnings`: about the
    request."""

    speech: SpeechRequest
    shown: Shown = Shown()
    model: str | None = None
    language: str | None = None
    warnings: list[str] = []


class Delivery(msgspec.Struct, frozen=True, omit_defaults=True):
    """Delivery of the message that the job has ended. `attempts`: how many were begun; `next_at`:
    when the next is due (Unix time); "delivered" and "given_up" are final."""

    url: str
    state: Literal["waiting", "delivered", "given_up"] = "waiting"
    attempts: int = 0
    next_at: float = 0.0


class Job(msgspec.Struct, frozen=True):
    """Job as it is stored. Times are Unix times; `seconds`: of audio, a guess until it is decoded;
    `owner`: the name of the key that created it, or empty."""

    id: str
    owner: str
    state: State
    created: float
    wanted: Wanted
    size: int
    seconds: float
    request_id: str = ""
    traceparent: str = ""
    """The place in a trace of the request that brought it, if it was in one."""
    started: float | None = None
    ended: float | None = None
    speech: Speech | None = None
    """Only where it was asked for, too: it may be long."""
    error: Failure | None = None
    delivery: Delivery | None = None

    @property
    def over(self) -> bool:
        """True if the job has a transcript, or has failed."""
        return self.state not in UNFINISHED


class Repeat(msgspec.Struct, frozen=True):
    """Identity of a request that may be repeated: its Idempotency-Key, and a hash of its parameters
    and audio."""

    key: str
    fingerprint: str
