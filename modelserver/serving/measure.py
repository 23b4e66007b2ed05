"""Measures what a model really takes: it is loaded once, as a server would, in processes that are
thrown away."""

import io
import wave
from dataclasses import dataclass

import msgspec

import models
from modelserver.serving.service import SpeechService
from modelserver.serving.transcription import Transcription
from modelserver.settings import Settings
from modelserver.speech.messages import SpeechRequest
from supervisor import NotReady, read_process


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurement of a model. `model`: unreclaimable bytes of the fork server; `growth`: bytes of a
    worker's own after `audio_s` seconds of speech; `mapped`: file cache in use."""

    model: int
    growth: int
    mapped: int
    load_s: float
    warm_s: float
    audio_s: float


async def measure(settings: Settings) -> Measured:
    """Measure the model that the settings name. Raises `supervisor.NotReady`."""
    workers = msgspec.structs.replace(settings.workers, count=1)
    alone = msgspec.structs.replace(settings, prepare="never", workers=workers, models={})
    async with SpeechService(alone) as service:
        pool = await service.models.default.loaded()
        loaded = pool.load_times()
        pid = pool.status().fork_server_pid
        held = read_process(pid) if pid is not None else None
        if held is None or loaded is None:
            raise NotReady("the model was gone before it could be measured")
        rate = 16_000
        clips = models.warm_up_clips(service.models.default.language, rate)
        for clip in clips:
            async with (
                service.admit(service.models.default, patient=True) as admission,
                service.open_spool() as spool,
            ):
                await spool.write(as_wav(clip, rate))
                await Transcription(service, service.models.default, SpeechRequest()).run(
                    admission, spool
                )
        await service.guard.look_again()
        (worker,) = pool.status().workers
        reading = read_process(worker.pid)
        mapped = reading.mapped if reading else 0
        seconds = sum(map(len, clips)) / 2 / rate
        return Measured(held.unreclaimable, worker.growth_bytes, mapped, *loaded, seconds)


def as_wav(pcm: bytes, rate: int) -> bytes:
    """Return a WAV file of 16-bit mono samples."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(pcm)
    return file.getvalue()
