"""Working through the jobs: whose turn it is, and one job from its audio to its transcript.

They are heard in the background of whatever else the workers do, in pieces that are kept: after the
server has ended, however it did, a job goes on after its last finished piece.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import structlog

from modelserver import __version__
from modelserver.jobs.record import Failure, Job
from modelserver.jobs.thread import StoreThread
from modelserver.serving.service import SpeechService, UnknownModel
from modelserver.serving.transcribing import Transcribing
from modelserver.speech.joining import HeardPiece
from modelserver.speech.messages import Speech, SpeechProgress
from modelserver.speech.phrases import PhrasesRefused
from modelserver.tracing import incoming_context
from supervisor import (
    DeadlineExceeded,
    Draining,
    FairQueue,
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
"""What is no fault of the job's: it waits, and is tried again."""
_LATER_S = 2.0
_DISK_LATER_S = 15.0
_SHARE_OF_ONE, _SHARE_OF_ALL = 2, 4
"""How many pieces are heard at once for each worker: of one owner's jobs, and of all."""

Told = Callable[[SpeechProgress], None]


@dataclass(eq=False, slots=True)
class _Known:
    """An unfinished job, in memory."""

    job: Job
    weight: int
    """Pieces of it that are heard at once."""
    task: asyncio.Task[None] | None = None
    done_s: float = 0.0
    deleted: bool = False
    told_all: asyncio.Event = field(default_factory=asyncio.Event)
    told: set[Told] = field(default_factory=set)


class JobWork:
    """All unfinished jobs. Owners have their turns fairly, by the audio that they bring."""

    def __init__(
        self, service: SpeechService, store: StoreThread, ended: Callable[[], None]
    ) -> None:
        """`ended`: called when one is over."""
        self._service, self._store, self._ended = service, store, ended
        self._known: dict[str, _Known] = {}
        self._queue: FairQueue[_Known] = FairQueue()
        self._paused = False

    def __len__(self) -> int:
        return len(self._known)

    def of(self, owner: str) -> int:
        """How many are that owner's."""
        return sum(known.job.owner == owner for known in self._known.values())

    def add(self, job: Job) -> None:
        """It is in the store, and has its turn."""
        settings, slots = self._service.settings, self._service.default.slots
        weight = max(1, min(slots, round(job.seconds / settings.long.piece_s)))
        known = self._known[job.id] = _Known(job, weight)
        self._queue.add(known, job.owner, max(1.0, job.seconds))
        self._begin_what_may()

    def positions(self) -> dict[str, int]:
        """Of those that wait, from 1, in the order of their turns."""
        return {known.job.id: at for at, known in enumerate(self._queue, 1)}

    def done_s(self, job_id: str) -> float:
        """Seconds of its audio that are understood."""
        known = self._known.get(job_id)
        return known.done_s if known else 0.0

    def runs(self, job_id: str) -> bool:
        """It is worked on now."""
        known = self._known.get(job_id)
        return known is not None and known.task is not None

    async def follow(self, job_id: str, told: Told) -> None:
        """Hear how far it is, until it is over, or nothing more is done to it here."""
        if self._paused or (known := self._known.get(job_id)) is None:
            return
        known.told.add(told)
        try:
            await known.told_all.wait()
        finally:
            known.told.discard(told)

    async def forget(self, job_id: str) -> None:
        """It is not wanted any more."""
        if (known := self._known.get(job_id)) is None:
            return
        known.deleted = True
        self._queue.discard(known)
        if known.task is not None:
            known.task.cancel()
            await asyncio.gather(known.task, return_exceptions=True)
        self._known.pop(job_id, None)
        known.told_all.set()
        self._begin_what_may()

    async def pause(self) -> None:
        """Begin no more; those that run stop after the piece that was kept last."""
        self._paused = True
        tasks = [known.task for known in self._known.values() if known.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for known in self._known.values():
            known.told_all.set()

    # --- turns ----------------------------------------------------------------------------------

    def _begin_what_may(self) -> None:
        while not self._paused and (known := self._next()) is not None:
            self._queue.take(known)
            known.task = asyncio.create_task(self._work_on(known))
            known.task.add_done_callback(lambda _: self._begin_what_may())

    def _next(self) -> _Known | None:
        """The next one that there is room for."""
        running = [known for known in self._known.values() if known.task is not None]
        slots = self._service.default.slots
        if running and sum(known.weight for known in running) >= _SHARE_OF_ALL * slots:
            return None
        used: dict[str, int] = {}
        for known in running:
            used[known.job.owner] = used.get(known.job.owner, 0) + known.weight
        most = _SHARE_OF_ONE * slots
        for known in self._queue:
            taken = used.get(known.job.owner, 0)
            if not taken or taken + known.weight <= most:
                return known
        return None

    async def _work_on(self, known: _Known) -> None:
        job = known.job
        try:
            wait_s = await self._try(known)
        except asyncio.CancelledError:
            if not known.deleted:
                with contextlib.suppress(sqlite3.Error, SpoolFull):
                    await self._store.do(lambda store: store.waits(job.id))
            raise
        except (sqlite3.Error, OSError, SpoolFull) as error:
            log.error("job.cannot_be_kept", job=job.id, reason=str(error))
            wait_s = _DISK_LATER_S
        if wait_s is None:
            self._known.pop(job.id, None)
            known.told_all.set()
            self._ended()
            return
        await asyncio.sleep(wait_s)
        known.task = None
        self._queue.put_back(known)

    async def _try(self, known: _Known) -> float | None:
        """None when it is over; else in how many seconds to try again. Raises `sqlite3.Error`,
        `OSError` or `SpoolFull` where that cannot be kept."""
        job, now = known.job, time.time()
        await self._store.do(lambda store: store.begins(job.id, self._store.now()))
        speech: Speech | None = None
        error: Failure | None = None
        try:
            above = incoming_context(job.traceparent)
            with self._service.tracing.entered("job", above, "internal") as span:
                span.note(modelserver__job=job.id)
                speech = await self._transcribe(known)
        except _LATER as later:
            log.info("job.waits", job=job.id, reason=later.message)
            await self._store.do(lambda store: store.waits(job.id))
            return later.retry_after_s or _LATER_S
        except PoolError as failed:
            error = Failure(failed.code, failed.message)
        except UnknownModel as failed:
            error = Failure("model_not_found", str(failed))
        except PhrasesRefused as failed:
            error = Failure("bad_parameter", f"phrases: {failed}")
        except FileNotFoundError:
            error = Failure("internal", "its audio is not there any more")
        except (OSError, sqlite3.Error):
            raise
        except Exception:
            log.exception("job.crashed", job=job.id)
            error = Failure("internal", "the server failed; its log says how")
        if not await self._store.do(
            lambda store: store.ends(job.id, self._store.now(), speech, error)
        ):
            return None
        log.info(
            "job.over",
            job=job.id,
            request_id=job.request_id,
            owner=job.owner or None,
            error=error.code if error else None,
            audio_s=speech.duration_s if speech else None,
            waited_s=round(now - job.created, 3),
            took_s=round(time.time() - now, 3),
        )
        if speech is not None:
            self._service.access.heard(job.owner or None, speech.duration_s)
        return None

    async def _transcribe(self, known: _Known) -> Speech:
        job, service = known.job, self._service
        served = service.find(job.wanted.model, job.wanted.language)
        if job.wanted.speech.phrases:
            served = service.with_phrases(served)

        def told(progress: SpeechProgress) -> None:
            known.done_s = progress.done_s
            for one in tuple(known.told):
                one(progress)

        asked = msgspec.structs.replace(
            job.wanted.speech, longest_audio_s=service.settings.limits.audio_s
        )
        owner = job.owner or None
        with self._store.audio(job.id).open("rb") as file:
            async with service.admit(served, patient=True, client=owner) as place:
                place.admission.resize(job.seconds, known=False)
                heard_by = f"{__version__} {served.label} {served.report().get('model')}"
                transcribing = Transcribing(
                    service,
                    asked,
                    told=told,
                    request_id=job.request_id,
                    journal=_Pieces(self._store, job.id, heard_by),
                )
                return (await transcribing.run(place, FileInput(file))).speech


class _Pieces:
    """Of one job (`modelserver.serving.recordings.PieceJournal`)."""

    def __init__(self, store: StoreThread, job_id: str, heard_by: str) -> None:
        self._store, self._job_id, self._heard_by = store, job_id, heard_by

    async def begin(self, piece_s: float) -> dict[int, HeardPiece]:
        pieces_of = f"{self._heard_by} {piece_s:g}"
        return await self._store.do(lambda store: store.begin_pieces(self._job_id, pieces_of))

    async def keep(self, number: int, heard: HeardPiece) -> None:
        await self._store.do(lambda store: store.keep_piece(self._job_id, number, heard))
