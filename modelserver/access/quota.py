"""Quota of one client: requests at once, and requests and audio a minute. A value and its rules;
the caller passes the time."""

from dataclasses import dataclass

from supervisor import counted

_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Allowed:
    """Limits of one key; 0 means without a limit."""

    requests: int = 0
    streams: int = 0
    jobs: int = 0
    """Most unfinished jobs."""
    audio_s: float = 0.0
    """Seconds of audio a minute; as much may be saved up."""


@dataclass(slots=True)
class Quota:
    """Work that one key has taken."""

    requests: int = 0
    streams: int = 0
    audio_left_s: float | None = None
    looked_at: float = 0.0

    def request_refusal(self, allowed: Allowed, now: float) -> tuple[str, float] | None:
        """Return why one more request is refused, and in how many seconds it might be admitted."""
        if allowed.requests and self.requests >= allowed.requests:
            return f"this key has {counted(self.requests, 'request')} in progress", 1.0
        return self.audio_refusal(allowed, now)

    def stream_refusal(self, allowed: Allowed, now: float) -> tuple[str, float] | None:
        """Return the same for a stream."""
        if allowed.streams and self.streams >= allowed.streams:
            return f"this key has {counted(self.streams, 'open stream')}", 5.0
        return self.audio_refusal(allowed, now)

    def job_refusal(
        self, allowed: Allowed, unfinished: int, now: float
    ) -> tuple[str, float] | None:
        """Return the same for a job, of a key that has `unfinished` jobs."""
        if allowed.jobs and unfinished >= allowed.jobs:
            return f"this key has {counted(unfinished, 'unfinished job')}", 10.0
        return self.request_refusal(allowed, now)

    def charge(self, seconds: float) -> None:
        """Subtract `seconds` of audio. The rest may become negative: later requests then wait
        longer."""
        if self.audio_left_s is not None:
            self.audio_left_s -= seconds

    def audio_refusal(self, allowed: Allowed, now: float) -> tuple[str, float] | None:
        """Return why no more audio is recognised, and in how many seconds it might be."""
        if not allowed.audio_s:
            self.audio_left_s = None
            return None
        if self.audio_left_s is None:
            self.audio_left_s = allowed.audio_s
        else:
            gained = (now - self.looked_at) * allowed.audio_s / _MINUTE_S
            self.audio_left_s = min(allowed.audio_s, self.audio_left_s + gained)
        self.looked_at = now
        if self.audio_left_s > 0:
            return None
        wait_s = -self.audio_left_s * _MINUTE_S / allowed.audio_s
        return f"this key is limited to {allowed.audio_s:g} s of audio per minute", wait_s + 1
