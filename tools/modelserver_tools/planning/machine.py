"""Machine of this kind: what it carries, measured by transcribing recordings."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import msgspec

import models
from modelserver.serving.measure import as_wav
from modelserver.serving.service import SpeechService
from modelserver.serving.sizing import SUPERVISOR_BYTES
from modelserver.serving.transcription import Transcription
from modelserver.settings import Settings
from modelserver.speech.messages import SpeechRequest
from supervisor import NotReady, counted, read_process

_RATE = 16_000
_LENGTHS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
_OF_EACH = 4
_WARMED = 3
_STRIDE_S = 2.7
HTTP_S = 0.002
"""Seconds that a request takes before and after its worker (docs/decisions.md: 1.8 ms)."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Machine with `workers`. When all work, a recording takes `overhead_s` and `pace` seconds per
    second of audio, with `noise` (a relative standard deviation). `streams`: live streams that it
    carries. `memory`: bytes that it then holds. `by`: source of the figures, in words."""

    workers: int
    pace: float
    overhead_s: float
    noise: float
    streams: int
    memory: int | None
    by: str

    def service_s(self, length_s: float) -> float:
        """Return the seconds that a recording of this length takes on a worker."""
        return self.overhead_s + self.pace * length_s

    @property
    def carries(self) -> float:
        """Seconds of audio per second, of long recordings, when nothing waits."""
        return self.workers / self.pace


def streams_of(workers: int, pace: float, share: float) -> int:
    """Return the live streams that fit, counted as by admission."""
    return max(1, int(share * workers / pace))


def bundled_recordings(language: str) -> list[bytes]:
    """Return files of speech of several lengths, each with other words, since words affect the
    time."""
    speech = b"".join(models.warm_up_clips(language, _RATE))
    lengths = [seconds for seconds in _LENGTHS_S for _ in range(_OF_EACH)] if speech else []
    return [_cut(speech, seconds, number) for number, seconds in enumerate(lengths)]


async def measured_machine(settings: Settings, recordings: Sequence[bytes] = ()) -> Machine:
    """Measure this machine with the model of the settings, on all workers at once. `recordings`:
    files like those to come; by default bundled speech. Raises `NotReady`."""
    alone = msgspec.structs.replace(settings, prepare="never", models={})
    async with SpeechService(alone) as service:
        pool = await service.models.default.loaded()
        workers = service.models.default.slots
        files = list(recordings) or bundled_recordings(service.models.default.language)
        if not files:
            raise NotReady("there is no speech to measure with")
        work = [file for file in files for _ in range(workers)]
        taken: list[tuple[float, float]] = []

        async def client() -> None:
            # Mapped pages are read from the disk once, which does not belong to the pace.
            for file in files[-_WARMED:]:
                await _run(service, file)
            while work:
                taken.append(await _run(service, work.pop()))

        await asyncio.gather(*(client() for _ in range(workers)))
        overhead_s, pace, noise = fitted_line(taken)
        await service.guard.look_again()
        pid = pool.status().fork_server_pid
        held = read_process(pid) if pid is not None else None
        grown = sum(worker.growth_bytes for worker in pool.status().workers)
        lengths = [seconds for seconds, _ in taken]
        return Machine(
            workers,
            pace,
            overhead_s,
            noise,
            streams_of(workers, pace, settings.streams.share),
            SUPERVISOR_BYTES + held.unreclaimable + grown if held is not None else None,
            f"measured on {counted(len(taken), 'recording')} of {min(lengths):.1f} to "
            f"{max(lengths):.1f} s, with all workers busy",
        )


async def _run(service: SpeechService, file: bytes) -> tuple[float, float]:
    """Transcribe a file; return its length and the time that it took, in seconds."""
    began = time.monotonic()
    async with (
        service.admit(service.models.default, patient=True) as admission,
        service.open_spool() as spool,
    ):
        await spool.write(file)
        done = await Transcription(service, service.models.default, SpeechRequest()).run(
            admission, spool
        )
    return done.speech.duration_s, time.monotonic() - began


def _cut(speech: bytes, seconds: float, number: int) -> bytes:
    size = int(seconds * _RATE) * 2
    at = int(number * _STRIDE_S * _RATE) * 2 % len(speech)
    return as_wav((speech * (size // len(speech) + 2))[at : at + size], _RATE)


def fitted_line(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Fit a line to lengths and times by least squares; return its beginning and slope, neither
    below 0, and the relative standard deviation from it."""
    mean_x, mean_y = fmean(x for x, _ in points), fmean(y for _, y in points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if spread < 1e-6:  # all of one length
        return 0.0, mean_y / mean_x, pstdev([y / mean_y for _, y in points])
    rise = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    rise = max(rise, 1e-6)
    begin = max(0.0, mean_y - rise * mean_x)
    return begin, rise, pstdev([y / (begin + rise * x) for x, y in points])
