"""The streams of a pool: which worker carries which, what they cost, and whether one more would
make the others late."""

import asyncio
from collections.abc import Iterable
from typing import Any

from supervisor.deaths.death import EXPECTED, Death, Intent
from supervisor.dispatch.buffers import MOST_UNREAD_BYTES
from supervisor.dispatch.stream import Stream
from supervisor.dispatch.stream_load import LEAST_SPAN_S, StreamLoad
from supervisor.errors import DeadlineExceeded, Draining, JobCrashed, JobError, PoolError, QueueFull
from supervisor.log import get_logger
from supervisor.loop.clock import LoopClock
from supervisor.processes.lifecycle import ProcessLifecycle
from supervisor.processes.worker_handle import WorkerHandle
from supervisor.settings import PoolSettings
from supervisor.sizes import counted
from supervisor.wire.messages import Failed, Fed, ProtocolError, StreamFailed

log = get_logger("supervisor")

MOST_UNREAD_OF_WORKER = 8 * MOST_UNREAD_BYTES
"""Bytes of answers that may be unread, of all streams of a worker."""
_RETRY_S = 5.0
_SUCCESSOR_S = 0.3
"""Seconds within which a worker that was lost is nearly always replaced."""


class Streams:
    """Streams of a pool."""

    def __init__(
        self, settings: PoolSettings, lifecycle: ProcessLifecycle, clock: LoopClock
    ) -> None:
        self.settings = settings.streams
        self._count, self._attempts = settings.workers, settings.attempts
        self._lifecycle = lifecycle
        self._clock = clock
        self._streams: dict[int, Stream] = {}
        self._load = StreamLoad()
        self._expected_until = 0.0
        """Time until which a replacement of a lost worker may still come."""
        self._to_vacate: dict[WorkerHandle, float] = {}
        """Workers that are to leave, and the time until which their streams may reach a
        checkpoint."""
        self.replays = 0
        """Number of times that a stream was resumed on another worker."""
        self.refused = 0
        """Number of streams refused because they would have made the others late."""

    def __len__(self) -> int:
        return sum(not stream.background for stream in self._streams.values())

    @property
    def all(self) -> list[Stream]:
        """Open streams, including background streams."""
        return list(self._streams.values())

    @property
    def behind_s(self) -> float:
        """Seconds for which the oldest unanswered input of a live stream has waited."""
        live = (stream for stream in self._streams.values() if not stream.background)
        return max((stream.behind_s() for stream in live), default=0.0)

    @property
    def replay_bytes(self) -> int:
        """Bytes of input that are retained for a replay."""
        return sum(stream.replay_bytes for stream in self._streams.values())

    def refusal(self, s_per_unit: float | None) -> QueueFull | None:
        """Explain why one more stream cannot be admitted; return None if it can. `s_per_unit`:
        seconds of work per unit of the pool's jobs."""
        pace = self._load.pace(s_per_unit)
        needs = self._load.needs(pace) + pace
        most = self.settings.share * self._count
        if needs <= most or not len(self):
            return None
        self.refused += 1
        return QueueFull(
            f"{counted(len(self), 'open stream')} and one more would need {needs:.2f} processors, "
            f"and {most:.2f} are available for streams",
            _RETRY_S,
        )

    def capacity(self, s_per_unit: float | None) -> int:
        """Return how many streams there may be at once, at the present pace."""
        pace = self._load.pace(s_per_unit)
        more = int((self.settings.share * self._count - self._load.needs(pace)) / pace)
        return max(1, len(self) + max(0, more))

    def add(self, stream: Stream) -> None:
        """Add a stream that begins."""
        if not stream.background:
            self._load.begin(stream.number)
        self._streams[stream.number] = stream
        self.schedule()

    def remove(self, stream: Stream) -> None:
        """Remove a stream that its caller is done with."""
        self._streams.pop(stream.number, None)
        self._load.end(stream.number)
        stream.fail(Draining("the stream is over"))

    def look(self) -> None:
        """End streams that have waited too long for an answer although their answers were read,
        move those that may move, and find workers for those without one. Call it about once a
        second."""
        most_s = self.settings.answer_s
        for stream in self.all:
            if stream.worker is not None and stream.worker.vacated:
                stream.leave_worker(tell=False)  # its end has come, and its handling has failed
            if stream.background or stream.over or stream.unread:
                continue
            if stream.behind_s() > most_s:
                worker = next((w for w in self._lifecycle.workers if stream in w.streams), None)
                stream.fail(DeadlineExceeded(f"a part of its input got no answer for {most_s:g} s"))
                if worker is not None and self._clock.now() - worker.answered_at > most_s:
                    worker.kill(Intent.HANG, f"it answered no stream for {most_s:g} s")
        now = self._clock.now()
        for worker in [worker for worker, until in self._to_vacate.items() if until <= now]:
            self._move_without_checkpoint(worker)
        self.schedule()

    def keep_within(self) -> None:
        """Bound what all streams retain together: the stream that retains most drops its input
        first."""
        while self.replay_bytes > self.settings.replay_total:
            largest = max(self._streams.values(), key=lambda stream: stream.replay_bytes)
            before = largest.replay_bytes
            largest.shed()
            if largest.replay_bytes >= before:
                return  # it waits for its worker

    def schedule(self) -> None:
        """Find a worker for every stream that has none, or may leave the one it has."""
        waiting = [stream for stream in self._streams.values() if stream.to_be_scheduled]
        if not waiting:
            return
        able = [worker for worker in self._lifecycle.workers if worker.able]
        newest = [worker for worker in able if worker.server is self._lifecycle.live_server()]
        most = self._share_of_each(len(able))
        for stream in waiting:
            if not able:
                if stream.moves_without_loss:
                    stream.leave_worker(tell=True)  # so that a successor can be started
                continue
            worker = min(newest or able, key=self._load_of)
            if worker is stream.worker:
                stream.wants_to_move = False
                continue
            if most is not None and _work_of(self._on(worker)) >= most:
                continue
            before = stream.replays
            stream.go_to(worker)
            self.replays += stream.replays - before

    def _share_of_each(self, able: int) -> float | None:
        """Return how much work a worker may have while a replacement is about to come: a replay is
        faster on two workers. None: no bound."""
        if able >= self._count or self._clock.now() >= self._expected_until:
            return None
        return _work_of(self._streams.values()) / self._count

    def worker_leaves(self, worker: WorkerHandle) -> None:
        """Move the streams of a worker that takes nothing new: at their next checkpoint, or without
        one after some seconds if that loses nothing. A stream that would lose something stays until
        it ends, unless memory is short."""
        for stream in self._on(worker):
            stream.wants_to_move = True
        if worker.streams:
            most_s = 0.0 if worker.hurried else self.settings.checkpoint_wait_s
            self._to_vacate[worker] = self._clock.now() + most_s
        self.schedule()

    def _move_without_checkpoint(self, worker: WorkerHandle) -> None:
        for stream in self._on(worker):
            if stream.moves_without_loss or worker.hurried:
                stream.leave_worker(tell=True)
        if not worker.streams:
            self._to_vacate.pop(worker, None)

    def worker_lost(
        self, worker: WorkerHandle, death: Death, at_hand: int, *, suspend: bool
    ) -> None:
        """Move the streams of a worker that has ended, with what was retained of them. The stream
        with the number `at_hand`, on which it was working, may have been the cause; `suspend` that
        one until `resume`."""
        self._to_vacate.pop(worker, None)
        lost = self._on(worker)
        if lost:
            self._expected_until = self._clock.now() + _SUCCESSOR_S
        for stream in lost:
            stream.leave_worker(tell=False)
            stream.suspended = suspend and stream.number == at_hand
            if death.cause in EXPECTED:
                continue
            wait_s = stream.worker_lost(death, self._attempts, at_hand=stream.number == at_hand)
            if wait_s and not stream.suspended:
                stream.suspended = True
                asyncio.get_running_loop().call_later(wait_s, self.resume, stream.number)
        self.schedule()
        if lost:
            log.warning("streams.moved", worker=worker.slot, pid=worker.pid, count=len(lost))

    def resume(self, number: int) -> None:
        """Find a worker for the stream of this number, if it was suspended."""
        if (stream := self._streams.get(number)) is not None:
            stream.suspended = False
            self.schedule()

    def close(self, error: Exception) -> None:
        """Fail all streams."""
        for stream in self.all:
            stream.fail(error)

    def fed(self, worker: WorkerHandle, message: Fed) -> None:
        """Handle a worker's answer. Raises `ProtocolError`."""
        stream = self._streams.get(message.stream)
        if stream is None or stream.worker is not worker:
            return  # it has ended, or is on another worker by now
        waited_s = stream.behind_s()
        if sum(one.unread_bytes for one in self._on(worker)) > MOST_UNREAD_OF_WORKER:
            raise ProtocolError("more answers of its streams than fit")
        units = stream.fed(message)
        worker.useful = True
        worker.answered_at = self._clock.now()
        if stream.background:
            return
        # An answer cannot have cost more than the time that it was waited for.
        self._load.worked(units, min(message.ran_s, waited_s + LEAST_SPAN_S))
        if stream.at_checkpoint and not stream.wants_to_move:
            self._even_out(stream, worker)

    def _even_out(self, stream: Stream, worker: WorkerHandle) -> None:
        """Let a stream leave a worker that has clearly more of them than another, if that costs
        nothing."""
        others = [_live(other) for other in self._lifecycle.workers if other.able]
        if others and _live(worker) > min(others) + 1:
            stream.wants_to_move = True
            self.schedule()

    def failed(self, worker: WorkerHandle, message: StreamFailed) -> None:
        """Fail a stream that the model refused to continue, or raised for."""
        stream = self._streams.get(message.stream)
        if stream is None or stream.worker is not worker:
            return
        ids = {"stream": stream.number, "request_id": stream.request_id}
        stream.fail(model_failure("stream", worker, message, **ids), tell=False)

    def _on(self, worker: WorkerHandle) -> list[Stream]:
        """Return the streams that the worker carries."""
        return [self._streams[stream.number] for stream in worker.streams]

    def _load_of(self, worker: WorkerHandle) -> tuple[float, int, int]:
        """Return a key that orders workers by load: live streams weigh more than background
        streams."""
        live = [stream for stream in self._on(worker) if not stream.background]
        return _work_of(live), len(worker.streams) - len(live), worker.slot


def _live(worker: WorkerHandle) -> int:
    return sum(not stream.background for stream in worker.streams)


def _work_of(streams: Iterable[Stream]) -> float:
    """Return the work of some streams: each counts alike, and units to be replayed are added."""
    return sum(1.0 + stream.units_to_replay for stream in streams)


def model_failure(
    what: str, worker: WorkerHandle, message: Failed | StreamFailed, **ids: Any
) -> PoolError:
    """Return the error for the caller of a job or stream that the model refused, or raised for
    (which is logged, with `ids`)."""
    if message.code is not None:
        return JobError(message.code, message.message)
    log.error(
        "job.crashed" if what == "job" else "stream.crashed",
        worker=worker.slot,
        pid=worker.pid,
        error=message.message,
        traceback=message.traceback,
        **ids,
    )
    return JobCrashed(message.message, message.traceback)
