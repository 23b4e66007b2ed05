"""From a recording that has its place to what is said in it: by one worker, or, if it is long, in
pieces by all."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from modelserver.audio.channels import MIX
from modelserver.serving.recordings import Recording, piece_length
from modelserver.serving.service import Place, SpeechService
from modelserver.speech.messages import Speech, SpeechProgress, SpeechRequest
from supervisor import DeadlineExceeded, JobInput, NotReady

Told = Callable[[SpeechProgress], None]


@dataclass(frozen=True, slots=True)
class Recognized:
    """A transcript, and the seconds that its job waited and worked for it."""

    speech: Speech
    queued_s: float
    run_s: float


async def transcribe(
    service: SpeechService,
    place: Place,
    audio: JobInput,
    asked: SpeechRequest,
    *,
    patient: bool = False,
    on_progress: Told | None = None,
    request_id: str | None = None,
) -> Recognized:
    """What is said in the file, as it is `asked`; `on_progress` hears how far it is.

    `patient`: however long it takes, and however long the audio is. Raises
    `supervisor.PoolError`.
    """
    limits = service.settings.limits
    asked = msgspec.structs.replace(asked, longest_audio_s=None if patient else limits.audio_s)
    timeout_s = None if patient else limits.request_s
    # Where channels are heard one by one, it is one worker's.
    if asked.channels == MIX and (place.admission.units or 0.0) >= service.settings.long.from_s:
        done = await _in_pieces(service, place, audio, asked, timeout_s, on_progress, request_id)
    else:
        done = await _whole(service, place, audio, asked, timeout_s, on_progress, request_id)
    service.traffic.audio_s += done.speech.duration_s
    return done


async def _whole(
    service: SpeechService,
    place: Place,
    audio: JobInput,
    asked: SpeechRequest,
    timeout_s: float | None,
    on_progress: Told | None,
    request_id: str | None,
) -> Recognized:
    def told(value: Any) -> None:
        if on_progress is not None:
            on_progress(msgspec.convert(value, SpeechProgress))

    try:
        result = await place.admission.run(
            msgspec.to_builtins(asked),
            audio,
            timeout_s=timeout_s,
            on_progress=told,
            request_id=request_id,
        )
    except DeadlineExceeded as error:
        raise DeadlineExceeded(f"{error.message} (limits.request_s is {timeout_s:g})") from error
    return Recognized(msgspec.convert(result.value, Speech), result.queued_s, result.run_s)


async def _in_pieces(
    service: SpeechService,
    place: Place,
    audio: JobInput,
    asked: SpeechRequest,
    timeout_s: float | None,
    on_progress: Told | None,
    request_id: str | None,
) -> Recognized:
    pool = place.served.pool
    if pool is None:
        raise NotReady("the model is not loaded any more")
    units, workers = place.admission.units or 0.0, place.served.slots
    recording = Recording(
        pool,
        service.spools,
        workers,
        asked,
        piece_s=piece_length(units, workers, service.settings.long.piece_s),
        told=on_progress,
        request_id=request_id,
    )
    started = time.monotonic()
    # Nobody waits behind it but for its samples.
    place.admission.resize(0.0, known=False)
    try:
        speech = await recording.transcribe(place.admission, audio, timeout_s)
    except TimeoutError:
        raise DeadlineExceeded(
            f"not done after {timeout_s:g} s (limits.request_s is {timeout_s:g})"
        ) from None
    return Recognized(speech, 0.0, time.monotonic() - started)
