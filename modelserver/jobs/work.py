"""Work on jobs: their order, and one job from its audio to its transcript.

Jobs run in the background of other work, in pieces whose results are stored: after a restart or a
crash, a job continues after its last finished piece.
"""

import asyncio
import contextlib
import functools
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import structlog

from modelserver import __version__
from modelserver.jobs.backoff import Backoff
from modelserver.jobs.queue import Line
from modelserver.jobs.record import Failure, Job
from modelserver.jobs.thread import StoreThread
from modelserver.refusal import Refusal
from modelserver.serving.served import ServedModel
from modelserver.serving.service import SpeechService
from modelserver.serving.transcription import Transcription
from modelserver.settings import Settings
from modelserver.speech.joining import RecognisedPiece
from modelserver.speech.messages import OnProgress, Speech, SpeechProgress
from modelserver.tracing import parent_of, span
from supervisor import (
    DeadlineExceeded,
    Draining,
    FileInput,
    MemoryPressure,
    NotReady,
    PoolError,
    QueueFull,
    ResourceExhausted,
    SpoolFull,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("jobs")

_LATER = (
    NotReady, QueueFull, Draining, MemoryPressure, ResourceExhausted, SpoolFull, DeadlineExceeded,
)  # fmt: skip
"""Errors that are not the job's fault: the job waits, and is tried again."""
_MODEL_LATER = (NotReady, QueueFull, Draining, MemoryPressure)
"""Errors of the model: its other jobs would meet the same."""
_DISK_LATER_S = 15.0
_TRIED_S = 24 * 3600.0
"""A job that can only wait fails after that."""
_SHARE_OF_ONE, _SHARE_OF_ALL = 2, 4
"""Pieces recognised at once for each worker: of one owner's jobs, and of all."""


def longest_audio_s(settings: Settings) -> float:
    """Return the longest recording that a job may have, in seconds."""
    return max(settings.limits.audio_s, settings.jobs.audio_s)


@dataclass(eq=False, slots=True)
class _Known:
    """An unfinished job, in memory."""

    job: Job
    weight: int
    """Pieces of the job that are recognised at once."""
    model: "_Model"
    backoff: Backoff = field(default_factory=Backoff)
    task: asyncio.Task[None] | None = None
    done_s: float = 0.0
    deleted: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    followers: set[OnProgress] = field(default_factory=set)


@dataclass(eq=False, slots=True)
class _Model:
    """The jobs of one model. Those of a model that is not there hold up no others."""

    slots: int
    line: Line[_Known] = field(default_factory=Line)
    running: set[_Known] = field(default_factory=set)
    backoff: Backoff = field(default_factory=Backoff)

    def next(self, now: float) -> _Known | None:
        """Return the next job for which there is a free slot; None if there is none."""
        if self.backoff.failures and (now < self.backoff.until or self.running):
            return None  # one at a time finds out whether the model is back
        if self.running and sum(k.weight for k in self.running) >= _SHARE_OF_ALL * self.slots:
            return None
        used: Counter[str] = Counter()
        for known in self.running:
            used[known.job.owner] += known.weight
        most = _SHARE_OF_ONE * self.slots
        for known in self.line:
            taken = used[known.job.owner]
            if not taken or taken + known.weight <= most:
                return known
        return None


class JobWork:
    """Work on all unfinished jobs. Owners take turns fairly, by the amount of audio."""

    def __init__(
        self, service: SpeechService, store: StoreThread, ended: Callable[[], None]
    ) -> None:
        """Work on the jobs of `store`. `ended`: called when a job has ended."""
        self._service, self._store, self._ended = service, store, ended
        self._known: dict[str, _Known] = {}
        self._models: dict[str, _Model] = {}
        self._of: Counter[str] = Counter()
        self._paused = False

    def __len__(self) -> int:
        return len(self._known)

    def of(self, owner: str) -> int:
        """Return how many unfinished jobs are that owner's."""
        return self._of[owner]

    def add(self, job: Job) -> None:
        """Queue a job that is in the store."""
        model = self._model_of(job)
        pieces = round(job.seconds / self._service.settings.debug.long_piece_s)
        known = _Known(job, max(1, min(model.slots, pieces)), model)
        self._known[job.id] = known
        self._of[job.owner] += 1
        model.line.add(known, job.owner, max(1.0, job.seconds))
        self._begin_what_may(model)

    def _model_of(self, job: Job) -> _Model:
        service, name = self._service, ""
        slots = service.models.default.slots
        with contextlib.suppress(Refusal):  # it fails when it has its turn
            served = self._find(job)
            name, slots = served.label, served.slots
        model = self._models.setdefault(name, _Model(slots))
        model.slots = slots
        return model

    def _find(self, job: Job) -> ServedModel:
        wanted = job.wanted
        return self._service.models.find(wanted.model, wanted.language, wanted.speech.phrases)

    def position(self, job_id: str) -> int | None:
        """Return the position among the jobs that wait for the same model, from 1; None if it does
        not wait for a turn."""
        known = self._known.get(job_id)
        return None if known is None else known.model.line.position(known)

    def done_s(self, job_id: str) -> float:
        """Return the seconds of the job's audio that are recognised."""
        known = self._known.get(job_id)
        return known.done_s if known else 0.0

    async def follow(self, job_id: str, on_progress: OnProgress) -> None:
        """Report progress to `on_progress` until the job has ended, or work on jobs is paused."""
        if self._paused or (known := self._known.get(job_id)) is None:
            return
        known.followers.add(on_progress)
        try:
            await known.ended.wait()
        finally:
            known.followers.discard(on_progress)

    async def forget(self, job_id: str) -> None:
        """Drop a job that is not wanted any more."""
        if (known := self._known.get(job_id)) is None:
            return
        known.deleted = True
        known.model.line.discard(known)
        if known.task is not None:
            known.task.cancel()
            await asyncio.gather(known.task, return_exceptions=True)
        self._gone(known)
        self._begin_what_may(known.model)

    async def pause(self) -> None:
        """Begin no more; those that run stop after the piece that was stored last."""
        self._paused = True
        tasks = [known.task for known in self._known.values() if known.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for known in self._known.values():
            known.ended.set()

    # --- turns ----------------------------------------------------------------------------------

    def _begin_what_may(self, model: _Model) -> None:
        now = asyncio.get_running_loop().time()
        while not self._paused and (known := model.next(now)) is not None:
            model.line.take(known)
            model.running.add(known)
            known.task = asyncio.create_task(self._work_on(known))
            known.task.add_done_callback(functools.partial(self._turn_over, known))

    def _turn_over(self, known: _Known, task: asyncio.Task[None]) -> None:
        if known.task is task:
            self._stops(known)
        self._begin_what_may(known.model)

    def _stops(self, known: _Known) -> None:
        known.task = None
        known.model.running.discard(known)

    def _gone(self, known: _Known) -> None:
        if self._known.pop(known.job.id, None) is not None:
            self._of[known.job.owner] -= 1
            if not self._of[known.job.owner]:
                del self._of[known.job.owner]
        known.ended.set()

    def _put_off(self, known: _Known, backoff: Backoff, least_s: float) -> None:
        """Have its next turn later; it is not in the queue until then. `backoff`: of its model, or
        its own."""
        loop, model = asyncio.get_running_loop(), known.model
        wait_s = backoff.failed(loop.time(), least_s)
        self._stops(known)
        if backoff is model.backoff:
            model.line.put_back(known, known.job.owner)
            loop.call_later(wait_s, self._begin_what_may, model)
        else:
            loop.call_later(wait_s, self._again, known)

    def _again(self, known: _Known) -> None:
        if not known.deleted:
            known.model.line.put_back(known, known.job.owner)
            self._begin_what_may(known.model)

    async def _work_on(self, known: _Known) -> None:
        job = known.job
        try:
            over = await self._try(known)
        except asyncio.CancelledError:
            if not known.deleted:
                with contextlib.suppress(sqlite3.Error, SpoolFull):
                    await self._store.do(lambda store: store.waits(job.id))
            raise
        except (sqlite3.Error, OSError, SpoolFull) as error:
            log.error("job.save_failed", job=job.id, reason=str(error))
            self._put_off(known, known.backoff, _DISK_LATER_S)
            return
        if over:
            self._gone(known)
            self._ended()

    async def _try(self, known: _Known) -> bool:
        """Run the job once; return True when it has ended, False if it is tried again later. Raises
        `sqlite3.Error`, `OSError` or `SpoolFull` if the result cannot be stored."""
        job, now = known.job, time.time()
        await self._store.do(lambda store: store.begins(job.id, self._store.now()))
        speech: Speech | None = None
        error: Failure | None = None
        try:
            above = parent_of(job.traceparent)
            with span("job", parent=above, attributes={"modelserver.job": job.id}):
                speech = await self._transcribe(known)
            known.model.backoff.succeeded()
        except _LATER as later:
            backoff = known.model.backoff if isinstance(later, _MODEL_LATER) else known.backoff
            lasted_s = backoff.lasted_s(asyncio.get_running_loop().time())
            if lasted_s < _TRIED_S:
                log.info("job.postponed", job=job.id, reason=later.message)
                await self._store.do(lambda store: store.waits(job.id))
                self._put_off(known, backoff, later.retry_after_s or 0.0)
                return False
            # The next one of this model finds the same, at once.
            error = Failure(later.code, f"{later.message} (for {lasted_s / 3600:.0f} h)")
        except PoolError as failed:
            known.model.backoff.succeeded()
            error = Failure(failed.code, failed.message)
        except Refusal as failed:
            error = Failure(failed.code, failed.message)
        except FileNotFoundError:
            error = Failure("internal", "the audio of the job has been deleted")
        except (OSError, sqlite3.Error):
            raise
        except Exception:
            log.exception("job.execution_failed", job=job.id)
            error = Failure("internal", "internal error: the server's log has the details")
        if not await self._store.do(
            lambda store: store.ends(job.id, self._store.now(), speech, error)
        ):
            return True
        log.info(
            "job.finished",
            job=job.id,
            request_id=job.request_id,
            owner=job.owner or None,
            error=error.code if error else None,
            audio_s=speech.duration_s if speech else None,
            waited_s=round(now - job.created, 3),
            took_s=round(time.time() - now, 3),
        )
        if speech is not None:
            self._service.access.charge(job.owner or None, speech.recognised_s)
        return True

    async def _transcribe(self, known: _Known) -> Speech:
        job, service = known.job, self._service
        served = self._find(job)

        def report(progress: SpeechProgress) -> None:
            known.done_s = progress.done_s
            if known.model.backoff.failures:  # the model is back
                known.model.backoff.succeeded()
                self._begin_what_may(known.model)
            for one in tuple(known.followers):
                one(progress)

        asked = msgspec.structs.replace(
            job.wanted.speech, longest_audio_s=longest_audio_s(service.settings)
        )
        owner = job.owner or None
        with self._store.audio(job.id).open("rb") as file:
            async with service.admit(served, patient=True, client=owner) as admission:
                admission.resize(job.seconds, known=False)
                recognised_by = f"{__version__} {served.label} {served.report().get('model')}"
                transcription = Transcription(
                    service,
                    served,
                    asked,
                    on_progress=report,
                    request_id=job.request_id,
                    journal=_Pieces(self._store, job.id, recognised_by),
                )
                return (await transcription.run(admission, FileInput(file))).speech


class _Pieces:
    """The pieces of one job (`modelserver.serving.recordings.PieceJournal`)."""

    def __init__(self, store: StoreThread, job_id: str, recognised_by: str) -> None:
        self._store, self._job_id, self._recognised_by = store, job_id, recognised_by

    async def begin(self, piece_s: float) -> dict[int, RecognisedPiece]:
        pieces_of = f"{self._recognised_by} {piece_s:g}"
        return await self._store.do(lambda store: store.begin_pieces(self._job_id, pieces_of))

    async def keep(self, number: int, recognised: RecognisedPiece) -> None:
        await self._store.do(lambda store: store.keep_piece(self._job_id, number, recognised))
