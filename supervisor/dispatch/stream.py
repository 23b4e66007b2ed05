"""A stream: input that is retained until it is not needed again, so that the stream outlives the
worker that carries it."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from supervisor.deaths.death import Death
from supervisor.dispatch.blame import Blame
from supervisor.dispatch.buffers import MOST_UNREAD_BYTES, Answers, Input, Replay
from supervisor.errors import StreamLost
from supervisor.loop.clock import LoopClock
from supervisor.processes.worker_handle import WorkerHandle
from supervisor.settings import StreamSettings
from supervisor.wire.channel import encoded
from supervisor.wire.messages import Drop, Fed, Feed, Open, ProtocolError, encode


class Stream:
    """A stream, from `Pool.stream`. Input goes in with `send`, answers come out of `receive`, in
    order; use one coroutine for each."""

    def __init__(
        self,
        number: int,
        settings: StreamSettings,
        request_id: str | None,
        schedule: Callable[[], None],
        retained: Callable[[], None],
        clock: LoopClock,
        *,
        background: bool = False,
    ) -> None:
        """Create a stream. `schedule` is called when it needs a worker, or may move to another;
        `retained` when it retains more input. `background`: it gets the steps that live streams and
        files leave."""
        self.number = number
        self.background = background
        self.request_id = request_id
        self.worker: WorkerHandle | None = None
        self.ending = asyncio.Event()
        """Set when the pool takes no new work: the caller should finish the stream."""
        self.replays = 0
        """Number of times that it was resumed on another worker."""
        self.wants_to_move = self.suspended = False
        """True while it waits after a crash of its worker, or after several kills from outside."""
        self._request: dict[str, Any] | None = None
        self._checkpoint: bytes | None = None
        self._settings = settings
        self._schedule, self._input_retained = schedule, retained
        self._clock = clock
        self._last = 0  # the number of the input that came last
        self._finished = False
        self._replay = Replay()
        self._sent = self._replay.inputs
        self._unsent: deque[Input] = deque()
        self._under_way = 0  # bytes of what was sent and has not been acknowledged
        self._answered = self._acknowledged = 0  # ever, and by the worker that it is on
        self._blame = Blame()
        self._answers = Answers()
        self._failure: Exception | None = None
        self._changed = asyncio.Event()

    # --- the caller's side -----------------------------------------------------------------------

    def begin(self, request: dict[str, Any], *, whole: bool = False) -> None:
        """Begin the stream, before any input: a worker is found for it. `whole`: later input needs
        all earlier input, so all is retained, up to a number of bytes; past them the stream cannot
        move to another worker."""
        # A request that cannot be encoded is the caller's mistake: it must raise here, not later.
        encoded(Open(self.number, request, 0.0, None, 0, 0.0, self.background))
        self._request = request
        self._replay.whole = whole
        self._schedule()

    async def send(self, data: Any, units: float = 0.0) -> None:
        """Send the next input, of types that MessagePack can carry, `units` in size; wait while
        enough is on its way already. Raises the `PoolError` that ended the stream."""
        while self._unsent and self._failure is None:
            await self._changed.wait()
        self._raise_failure()
        body = encoded(Feed(self.number, self._last + 1, data, time.monotonic()))
        self._last += 1
        self._unsent.append(Input(self._last, body, units, self._clock.now()))
        self._replay.bytes += len(body)
        self._send_on()
        self._input_retained()

    def finish(self) -> None:
        """Declare that no more input follows, so that `receive` comes to an end."""
        self._finished = True
        self._notify()

    async def receive(self) -> list[Any]:
        """Return the values that have arrived, at least one; an empty list once all input is
        answered after `finish`. Raises the exception that ended the stream."""
        while not self._answers:
            self._raise_failure()
            if self._finished and self._answered == self._last:
                break
            await self._changed.wait()
        values = self._answers.take()
        self._send_on()
        return values

    def _notify(self) -> None:
        # Both coroutines may wait, each for its own reason.
        self._changed.set()
        self._changed = asyncio.Event()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    # --- the pool's side -------------------------------------------------------------------------

    @property
    def replay_bytes(self) -> int:
        """Bytes of input that are retained for a replay."""
        return self._replay.bytes

    @property
    def over(self) -> bool:
        """True if the stream has failed, or its caller is done with it."""
        return self._failure is not None

    @property
    def begun(self) -> bool:
        """True if a worker has been or is to be found for it."""
        return self._request is not None

    @property
    def to_be_scheduled(self) -> bool:
        """True if it needs a worker, or may leave the one it has."""
        may_move = self.wants_to_move and self.at_checkpoint
        waits = not self.begun or self.over or self.suspended
        return not waits and (self.worker is None or may_move)

    @property
    def at_checkpoint(self) -> bool:
        """True if a move to another worker would replay nothing."""
        return not self._sent and not self._replay.lost

    @property
    def working(self) -> bool:
        """True if its worker has input that is not answered."""
        return self.worker is not None and self._under_way > 0

    @property
    def moves_without_loss(self) -> bool:
        """True if another worker could be sent all that it needs."""
        return not self._replay.lost and not self._replay.cut

    def behind_s(self) -> float:
        """Return for how many seconds the oldest unanswered input has waited."""
        now = self._clock.now()
        if self._sent and self._sent[-1].number > self._answered:
            return now - self._sent[max(0, self._answered + 1 - self._sent[0].number)].at
        return now - self._unsent[0].at if self._unsent else 0.0

    @property
    def unread(self) -> bool:
        """True if it waits for its caller to read answers."""
        return len(self._answers) > self._settings.unread or self.unread_bytes > MOST_UNREAD_BYTES

    @property
    def unread_bytes(self) -> int:
        """Bytes of answers that its caller has not read yet."""
        return self._answers.size

    @property
    def units_to_replay(self) -> float:
        """Units that its current or next worker has to receive again."""
        again = (*self._sent, *self._unsent)
        return sum(one.units for one in again if self._acknowledged < one.number <= self._answered)

    def go_to(self, worker: WorkerHandle) -> None:
        """Continue on this worker, with all that is retained."""
        assert self._request is not None
        self.leave_worker(tell=True)
        if self._replay.cut:
            self.fail(StreamLost("its worker has ended, and its input was too long to be retained"))
            return
        since, before = time.monotonic() - self.behind_s(), (self._replay.dropped, self._checkpoint)
        opening = Open(self.number, self._request, *before, self._answered, since, self.background)
        self.replays += self._answered > 0
        self.worker = worker
        worker.streams.add(self)
        worker.send_stream(encode(opening))
        self._send_on()

    def leave_worker(self, *, tell: bool) -> None:
        """Detach from the current worker, and `tell` it."""
        worker, self.worker = self.worker, None
        self.wants_to_move = False
        if worker is None:
            return
        worker.streams.discard(self)
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()
        self._under_way, self._replay.units, self._acknowledged = 0, 0.0, 0
        worker.work_changed()
        if tell:
            worker.send_stream(encode(Drop(self.number)))

    def fed(self, message: Fed) -> float:
        """Handle an answer of its worker; return the units that are answered for the first time.
        Raises `ProtocolError` if that input is not the next to be answered."""
        at = 0 if not self._sent else message.number - self._sent[0].number
        expected = max(self._acknowledged + 1, self._sent[0].number if self._sent else 0)
        if not self._sent or message.number != expected or at >= len(self._sent):
            raise ProtocolError(f"an answer to input {message.number} of stream {self.number}")
        first = message.number > self._answered
        # Answers given before the worker changed are not repeated; but a final result that was
        # missing the first time must not be lost.
        if first or message.at_checkpoint:
            self._answers.add(message.values)
            if message.checkpoint is not None:
                self._checkpoint = message.checkpoint
        self._under_way -= len(self._sent[at].message)
        self._acknowledged = message.number
        if first:
            self._answered = message.number
        if message.at_checkpoint:
            self._replay.drop(message.number)
            self._replay.lost = False
            if self.wants_to_move:
                self._schedule()
        if self.worker is not None:
            self.worker.work_changed()
        self._send_on()
        self._notify()
        return message.units if first else 0.0

    def shed(self) -> None:
        """Drop answered input: all streams together retain too much."""
        self._replay.shed(self._acknowledged)

    def worker_lost(self, death: Death, attempts: int, *, at_hand: bool) -> float:
        """Count a worker that died. Return the seconds to wait, or fail if too many died."""
        found = self._blame.worker_lost(death, self._answered, attempts, at_hand=at_hand)
        if not isinstance(found, float):
            self.fail(found)
        return found if isinstance(found, float) else 0.0

    def fail(self, error: Exception, *, tell: bool = True) -> None:
        """End the stream; its caller receives the error."""
        self.leave_worker(tell=tell)
        if self._failure is None:
            self._failure = error
        self._notify()

    def _send_on(self) -> None:
        """Send its worker as much input as may be on its way at once."""
        if self.worker is None or self.unread:
            return
        window = self._settings.window
        while self._unsent and (
            not self._under_way or self._under_way + len(self._unsent[0].message) <= window
        ):
            one = self._unsent.popleft()
            self._sent.append(one)
            self._under_way += len(one.message)
            self._replay.units += one.units
            self.worker.send_stream(one.message)
        self.worker.work_changed()
        self._replay.trim(self._settings, self._acknowledged)
        self._notify()
