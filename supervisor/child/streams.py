"""The streams that a worker carries: the step is that of the one whose answer is the most overdue.
Those in the background have theirs when there is nothing else.

Earliest deadline first keeps the longest lateness as short as can be (Jackson, 1955): where a
worker has died, streams that are told again what was answered elsewhere go before the others.
"""

import time
import traceback
from collections import deque
from collections.abc import Generator

from supervisor.contract import Servable, StreamAnswer, Streaming, StreamSession
from supervisor.errors import JobError
from supervisor.wire.channel import Channel
from supervisor.wire.messages import Drop, Fed, Feed, Open, StreamFailed
from supervisor.wire.scoreboard import RecordWriter

Steps = Generator[None, None, StreamAnswer]


_STEP_S = 0.2
"""By how much later the next step of an input is due: who sends much at once is ahead of the pace
of speech, and is not to keep those waiting who are not."""


class _Carried:
    """One stream, and what it has not heard yet."""

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
        """When its next step was, or will be, asked for."""
        asked = self.inputs[0]
        if asked.number <= self.answered:
            return self.since
        return asked.at + self.steps_done * _STEP_S


def _due(stream: _Carried) -> float:
    return stream.due


class CarriedStreams:
    """All of them. A stream that raises is told to the supervisor, and forgotten."""

    def __init__(self, servable: Servable, channel: Channel, record: RecordWriter) -> None:
        self._servable = servable
        self._channel = channel
        self._record = record
        self._carried: dict[int, _Carried] = {}
        self._ready: list[_Carried] = []
        """Those that have something to do, the one that had its turn last at the end."""
        self._background: deque[_Carried] = deque()

    def __bool__(self) -> bool:
        return bool(self._carried)

    @property
    def waiting(self) -> bool:
        """One of them has something to do."""
        return self.urgent or bool(self._background)

    @property
    def urgent(self) -> bool:
        """One that is not in the background has."""
        return bool(self._ready)

    def obey(self, message: Open | Feed | Drop) -> None:
        """Take a message about a stream."""
        match message:
            case Open():
                self._open(message)
            case Feed():
                # One that has failed may be fed until the supervisor has heard of it.
                if (stream := self._carried.get(message.stream)) is not None:
                    stream.inputs.append(message)
                    if len(stream.inputs) == 1:
                        self._queue(stream)
            case Drop():
                if (stream := self._carried.get(message.stream)) is not None:
                    self._forget(stream)

    def step(self) -> None:
        """One step of the stream whose turn it is."""
        if not self.urgent:
            self._step(self._background.popleft())
            return
        stream = min(self._ready, key=_due)
        self._ready.remove(stream)
        self._step(stream)

    def _step(self, stream: _Carried) -> None:
        before = self._record.turned_to(stream.number)
        started = time.process_time()
        try:
            self._advance(stream, started)
        except JobError as error:
            self._failed(stream, error.code, error.message, "")
        except Exception as error:  # noqa: BLE001 - a model's bug costs the stream, not the worker
            self._failed(stream, None, f"{type(error).__name__}: {error}", traceback.format_exc())
        finally:
            self._record.turned_to(before)
        if stream.number in self._carried and stream.inputs:
            self._queue(stream)

    def _queue(self, stream: _Carried) -> None:
        if stream.background:
            self._background.append(stream)
        else:
            self._ready.append(stream)

    def _open(self, message: Open) -> None:
        try:
            if not isinstance(self._servable, Streaming):
                raise JobError("no_streams", "this model takes no streams")
            session = self._servable.open(message.request, message.before, message.mark)
        except JobError as error:
            self._channel.send(StreamFailed(message.stream, error.code, error.message, ""))
        except Exception as error:  # noqa: BLE001 - as above
            text = f"{type(error).__name__}: {error}"
            self._channel.send(StreamFailed(message.stream, None, text, traceback.format_exc()))
        else:
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
            self._channel.send(
                Fed(stream.number, number, said.values, said.settled, said.mark, said.units, ran_s)
            )
        else:
            stream.ran_s += time.process_time() - started

    def _failed(self, stream: _Carried, code: str | None, message: str, trace: str) -> None:
        self._forget(stream)
        self._channel.send(StreamFailed(stream.number, code, message, trace))

    def _forget(self, stream: _Carried) -> None:
        del self._carried[stream.number]
        for turns in (self._ready, self._background):
            if stream in turns:
                turns.remove(stream)
        if stream.steps is not None:
            stream.steps.close()
        stream.session.close()
