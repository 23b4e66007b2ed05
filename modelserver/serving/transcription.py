"""Transcription of an admitted recording: by one worker, or, if it is long, in pieces by all
workers."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from modelserver.audio.channels import MIX
from modelserver.serving.recordings import PieceJournal, Recording, piece_length
from modelserver.serving.served import ServedModel
from modelserver.serving.service import SpeechService
from modelserver.speech.messages import OnProgress, Speech, SpeechProgress, SpeechRequest
from modelserver.tracing import past_span, span
from supervisor import Admission, DeadlineExceeded, Death, JobInput, NotReady


@dataclass(frozen=True, slots=True)
class Recognized:
    """A transcript, and the seconds that its job waited and worked for it."""

    speech: Speech
    queued_s: float
    run_s: float
    deaths: tuple[Death, ...] = ()
    """Deaths of workers in earlier attempts at the recording."""


@dataclass(frozen=True, slots=True)
class Transcription:
    """Transcription of one recording, as `asked`. `timeout_s`: seconds that it may take;
    `on_progress` receives its progress; with a `journal` it is recognised in the background, in
    pieces whose results are stored, however short it is."""

    service: SpeechService
    served: ServedModel
    asked: SpeechRequest
    timeout_s: float | None = None
    on_progress: OnProgress | None = None
    request_id: str | None = None
    journal: PieceJournal | None = None

    async def run(self, admission: Admission, audio: JobInput) -> Recognized:
        """Transcribe the audio. Raises `supervisor.PoolError`."""
        long = (admission.units or 0.0) >= self.service.settings.debug.long_from_s
        in_pieces = long or self.journal is not None
        with span("transcribe", attributes={"modelserver.in_pieces": in_pieces}) as transcribing:
            transcribing.set_attribute("modelserver.model", self.served.label)
            entered = time.time()
            done = await (self._in_pieces if in_pieces else self._whole)(admission, audio)
            transcribing.set_attribute("modelserver.audio_s", done.speech.duration_s)
            # Clocks that tick in milliseconds must not put them before what they are in.
            ended = time.time()
            began = max(entered, ended - done.run_s)
            past_span("queue", max(entered, began - done.queued_s), began)
            past_span("decode", began, ended)
            for death in done.deaths:
                exited = {
                    "modelserver.cause": death.cause.value,
                    "process.pid": death.pid,
                    "modelserver.sentence": death.sentence,
                }
                transcribing.add_event("worker.exited", exited)
        self.service.traffic.recognized(
            self.served.label, done.queued_s, done.run_s, done.speech.duration_s
        )
        return done

    @property
    def _request(self) -> SpeechRequest:
        """Request as the workers receive it: with the model's keywords."""
        return self.served.keywords.added_to(self.asked)

    async def _whole(self, admission: Admission, audio: JobInput) -> Recognized:
        try:
            result = await admission.run(
                msgspec.to_builtins(self._request),
                audio,
                timeout_s=self.timeout_s,
                on_progress=None if self.on_progress is None else _ReportedOnce(self.on_progress),
                request_id=self.request_id,
            )
        except DeadlineExceeded as error:
            limit = f"(limits.request_s is {self.timeout_s:g})"
            raise DeadlineExceeded(f"{error.message} {limit}") from error
        speech = msgspec.convert(result.value, Speech)
        return Recognized(speech, result.queued_s, result.run_s, result.deaths)

    async def _in_pieces(self, admission: Admission, audio: JobInput) -> Recognized:
        pool = self.served.pool
        if pool is None:
            raise NotReady("the model is not loaded any more")
        units, workers = admission.units or 0.0, self.served.slots
        # Files do not wait behind it but for its samples; other recordings do, by their turns.
        admission.resize(0.0, known=False)
        entered = started = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout_s), contextlib.AsyncExitStack() as held:
                turns, turn = self.served.turns, None
                if self.journal is None:
                    seconds = units * _least_channels(self.asked.channels)
                    waiting = turns.turn(seconds, workers, self.timeout_s)
                    turn = await held.enter_async_context(waiting)
                started = time.monotonic()
                recording = Recording(
                    pool,
                    self.service.spools,
                    workers,
                    self._request,
                    piece_s=piece_length(units, workers, self.service.settings.debug.long_piece_s),
                    on_progress=self.on_progress,
                    request_id=self.request_id,
                    journal=self.journal,
                    writes=bool(self.service.settings.text.steps),
                    turn=turn,
                    may_go_on=turns.idle if turn is None else None,
                )
                speech = await recording.transcribe(admission, audio)
        except TimeoutError:
            raise DeadlineExceeded(
                f"not done after {self.timeout_s:g} s (limits.request_s is {self.timeout_s:g})"
            ) from None
        queued_s = started - entered + recording.queued_s
        return Recognized(speech, queued_s, time.monotonic() - entered - queued_s)


_MOST_SEGMENTS = 100_000
"""Segments of a file that are remembered; only a worker that cannot be trusted sends more."""


class _ReportedOnce:
    """Receives the progress of a job, and tells it without what a retry repeats."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._done_s = 0.0
        self._segments = set[tuple[int | None, float, float]]()

    def __call__(self, value: Any) -> None:
        progress = msgspec.convert(value, SpeechProgress)
        repeated = progress.done_s < self._done_s
        self._done_s = max(self._done_s, progress.done_s)
        if (segment := progress.segment) is not None:
            key = segment.channel, segment.start, segment.end
            repeated = key in self._segments
            if len(self._segments) < _MOST_SEGMENTS:
                self._segments.add(key)
        if not repeated:
            self._on_progress(progress)


def _least_channels(channels: str) -> int:
    """Return how many channels are recognised one by one, as far as the request says it."""
    return 1 if channels == MIX else max(2, channels.count(",") + 1)
