"""What one machine of this kind does with a recording: measured by having it recognise some."""

import asyncio
import time
from dataclasses import dataclass
from statistics import fmean, pstdev

import msgspec

import models
from modelserver.serving.measure import as_wav
from modelserver.serving.service import SpeechService
from modelserver.serving.sizing import SUPERVISOR_BYTES
from modelserver.serving.transcribing import Transcribing
from modelserver.settings import Settings
from modelserver.speech.messages import SpeechRequest
from supervisor import NotReady, read_process

_RATE = 16_000
_LENGTHS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
_ROUNDS = 3
HTTP_S = 0.002
"""What a request takes before and after its worker (benchmarks/README.md: 1.8 ms)."""


@dataclass(frozen=True, slots=True)
class Machine:
    """`workers` that all have work take `overhead_s` and `pace` seconds a second of audio for a
    recording, give or take `noise` of it (a standard deviation). `streams`: that it carries live.
    `memory`: bytes that it holds then. `by`: where this is from, in words."""

    workers: int
    pace: float
    overhead_s: float
    noise: float
    streams: int
    memory: int | None
    by: str

    def service_s(self, length_s: float) -> float:
        """What a recording of that length takes a worker."""
        return self.overhead_s + self.pace * length_s

    @property
    def carries(self) -> float:
        """Seconds of audio a second, of long recordings, when nothing waits."""
        return self.workers / self.pace


def streams_of(workers: int, pace: float, share: float) -> int:
    """As admission counts them."""
    return max(1, int(share * workers / pace))


async def measured_machine(settings: Settings) -> Machine:
    """With the model that the settings name, on all workers at once. Raises `NotReady`."""
    alone = msgspec.structs.replace(settings, prepare="never", models={})
    async with SpeechService(alone) as service:
        pool = await service.default.loaded()
        workers = service.default.slots
        speech = b"".join(models.warm_up_clips(service.default.language, _RATE))
        if not speech:
            raise NotReady("there is no speech to measure with")
        files = {seconds: _cut(speech, seconds) for seconds in _LENGTHS_S}
        work = [seconds for seconds in _LENGTHS_S for _ in range(_ROUNDS * workers)]
        taken: list[tuple[float, float]] = []

        async def worker_of_ours() -> None:
            while work:
                seconds = work.pop()
                taken.append((seconds, await _run(service, files[seconds])))

        await asyncio.gather(*(worker_of_ours() for _ in range(workers)))
        overhead_s, pace = _line(taken)
        expected = [overhead_s + pace * seconds for seconds, _ in taken]
        noise = pstdev([took / line for (_, took), line in zip(taken, expected, strict=True)])
        await service.guard.look_again()
        pid = pool.status().fork_server_pid
        held = read_process(pid) if pid is not None else None
        grown = sum(worker.growth_bytes for worker in pool.status().workers)
        return Machine(
            workers,
            pace,
            overhead_s,
            noise,
            streams_of(workers, pace, settings.streams.share),
            SUPERVISOR_BYTES + held.kept + grown if held is not None else None,
            f"measured on {len(taken)} recordings of 1 to 16 s, all workers busy",
        )


async def _run(service: SpeechService, wav: bytes) -> float:
    began = time.monotonic()
    async with service.admit(service.default, patient=True) as place, service.open_spool() as spool:
        await spool.write(wav)
        await Transcribing(service, SpeechRequest()).run(place, spool)
    return time.monotonic() - began


def _cut(speech: bytes, seconds: float) -> bytes:
    size = int(seconds * _RATE) * 2
    return as_wav((speech * (size // len(speech) + 1))[:size], _RATE)


def _line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Where it begins and how it rises, by least squares; neither below nothing."""
    mean_x, mean_y = fmean(x for x, _ in points), fmean(y for _, y in points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    rise = max(rise, 1e-6)
    return max(0.0, mean_y - rise * mean_x), rise
