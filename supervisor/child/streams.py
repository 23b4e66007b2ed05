"""Streams of a worker: the next step goes to the stream whose answer is the most overdue.
Background streams take turns.

Earliest deadline first keeps the longest lateness as short as possible (Jackson, 1955): after a
worker has ended, its streams, which receive a replay of inputs that were answered before, go before
the others.
"""

import contextlib
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterator

from supervisor.child.turns import Turn
from supervisor.contract import Servable, StreamAnswer, Streaming, StreamSession
from supervisor.errors import JobError
from supervisor.wire.channel import Channel, ChannelClosed
from supervisor.wire.messages import (
    LONGEST_CHECKPOINT_BYTES,
    Drop,
    Fed,
    Feed,
    Open,
    StreamFailed,
    ToWorker,
    sendable,
)
from supervisor.wire.page import Page
from supervisor.wire.payload import pack_value, unpack_value

Steps = Generator[None, None, StreamAnswer]


_STEP_S = 0.2
"""Seconds by which the next step of an input is due later. A client that sends much at once is
ahead of the pace of speech, and does not delay those that are not."""


class _Carried:
    """A stream with the inputs that it has not finished."""

    def __init__(self, message: Open, session: StreamSession) -> None:
        self.number = message.stream
        self.answered = message.answered
        self.since = message.since
        self.background = message.background
        self.session = session
        self.inputs: deque[Feed] = deque()
        self.steps: Steps | None = None
        self.ran_s = 0.0
        self.steps_done = 0

    @property
    def due(self) -> float:
        """Time at which its next step was or will be due."""
        asked = self.inputs[0]
        if asked.number <= self.answered:
            return self.since
        return asked.at + self.steps_done * _STEP_S


def _due(stream: _Carried) -> float:
    return stream.due


class CarriedStreams:
    """Streams that this worker carries. A stream that raises is reported to the supervisor and
    forgotten. The page shows which one the worker is working on."""

    def __init__(self, servable: Servable, channel: "Channel[ToWorker]", page: Page) -> None:
        self._servable = servable
        self._channel = channel
        self._page = page
        self._carried: dict[int, _Carried] = {}
        self._ready: list[_Carried] = []
        """Streams with a step to do; the one that ran last is at the end."""
        self._background: deque[_Carried] = deque()

    def __bool__(self) -> bool:
        return bool(self._carried)

    def turns(self) -> set[Turn]:
        """Return the classes in which a stream has a step to do."""
        live = {Turn.STREAMS} if self._ready else set()
        return live | {Turn.BACKGROUND} if self._background else live

    def obey(self, message: Open | Feed | Drop) -> None:
        """Handle a message about a stream."""
        match message:
            case Open():
                self._open(message)
            case Feed():
                # A stream that has failed may still be fed until the supervisor knows.
                if (stream := self._carried.get(message.stream)) is not None:
                    stream.inputs.append(message)
                    if len(stream.inputs) == 1:
                        self._queue(stream)
            case Drop():
                if (stream := self._carried.get(message.stream)) is not None:
                    self._forget(stream)

    def step(self, turn: Turn) -> None:
        """Do one step of a stream of the class `turn`."""
        if turn is Turn.BACKGROUND:
            self._step(self._background.popleft())
            return
        stream = min(self._ready, key=_due)
        self._ready.remove(stream)
        self._step(stream)

    def _step(self, stream: _Carried) -> None:
        started = time.process_time()
        with self._at_hand(stream.number):
            self._advance(stream, started)
        if stream.number in self._carried and stream.inputs:
            self._queue(stream)

    def _queue(self, stream: _Carried) -> None:
        if stream.background:
            self._background.append(stream)
        else:
            self._ready.append(stream)

    def _open(self, message: Open) -> None:
        with self._at_hand(message.stream):
            if not isinstance(self._servable, Streaming):
                raise JobError("no_streams", "this model takes no streams")
            checkpoint = None if message.checkpoint is None else unpack_value(message.checkpoint)
            session = self._servable.open(message.request, message.before, checkpoint)
            self._carried[message.stream] = _Carried(message, session)

    def _advance(self, stream: _Carried, started: float) -> None:
        if stream.steps is None:
            asked = stream.inputs[0]
            stream.steps = stream.session.feed(asked.data, quiet=asked.number <= stream.answered)
            stream.ran_s, stream.steps_done = 0.0, 0
        stream.steps_done += 1
        try:
            next(stream.steps)
        except StopIteration as stop:
            said: StreamAnswer = stop.value
            number = stream.inputs.popleft().number
            stream.steps, stream.steps_done = None, 0
            ran_s = stream.ran_s + time.process_time() - started
            values = pack_value(said.values)
            reached, checkpoint = bool(said.at_checkpoint), None
            if said.checkpoint is not None:
                checkpoint = pack_value(said.checkpoint, LONGEST_CHECKPOINT_BYTES)
            units = max(0.0, said.units)
            self._channel.send(
                Fed(stream.number, number, values, reached, checkpoint, units, ran_s)
            )
        else:
            stream.ran_s += time.process_time() - started

    @contextlib.contextmanager
    def _at_hand(self, number: int) -> Iterator[None]:
        """Mark the stream as being worked on. What the block raises is reported as that stream's
        failure; neither the worker nor its job is affected."""
        before = self._page.turn_to(number)
        try:
            yield
        except ChannelClosed:
            raise
        except JobError as error:
            self._failed(number, sendable(error.code, 100), error.message, "")
        except Exception as error:  # noqa: BLE001 - a model's bug
            self._failed(number, None, f"{type(error).__name__}: {error}", traceback.format_exc())
        finally:
            self._page.turn_to(before)

    def _failed(self, number: int, code: str | None, message: str, trace: str) -> None:
        if (stream := self._carried.get(number)) is not None:
            self._forget(stream)
        self._channel.send(StreamFailed(number, code, sendable(message), sendable(trace)))

    def _forget(self, stream: _Carried) -> None:
        """Forget a stream, and close its session last: the stream is gone even if that raises."""
        del self._carried[stream.number]
        for turns in (self._ready, self._background):
            if stream in turns:
                turns.remove(stream)
        before = self._page.turn_to(stream.number)
        try:
            if stream.steps is not None:
                stream.steps.close()
            stream.session.close()
        except Exception:  # noqa: BLE001 - a model's bug
            traceback.print_exc()
        finally:
            self._page.turn_to(before)
