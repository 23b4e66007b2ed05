"""Buffers of a stream: input for a replay, and answers for its caller."""

from collections import deque
from dataclasses import dataclass
from typing import Any

from supervisor.settings import StreamSettings
from supervisor.wire.messages import ProtocolError
from supervisor.wire.payload import unpack_list

MOST_UNREAD_BYTES = 8 * 1024 * 1024
"""Of a stream's answers, encoded, beside a single one: a worker that says more has lost its
mind, since no input is sent while so much is unread."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input, encoded."""

    number: int
    message: bytes
    units: float
    at: float
    """When it came, by the loop's clock."""


class Replay:
    """Replay buffer: the input that was sent since the last checkpoint."""

    def __init__(self) -> None:
        self.inputs: deque[Input] = deque()
        """To the worker that the stream is on, numbered one after the other."""
        self.units = 0.0
        """Of `inputs`."""
        self.bytes = 0
        """Of `inputs`, and of what is not sent yet."""
        self.dropped = 0.0
        """Units that need not be sent to any worker again, or cannot."""
        self.lost = False
        """Whether input that came since the last checkpoint was dropped."""
        self.whole = False
        """Whether all input is to be retained, and..."""
        self.cut = False
        """...is not."""

    def drop(self, number: int) -> None:
        """Drop the inputs up to that one."""
        while self.inputs and self.inputs[0].number <= number:
            self._drop_first()

    def shed(self, acknowledged: int) -> None:
        """Drop what was answered, for the memory."""
        self.cut = self.cut or self.whole
        self.drop(acknowledged)

    def trim(self, settings: StreamSettings, acknowledged: int) -> None:
        """Drop what is more than the settings allow, of what was answered."""
        self.cut = self.cut or (self.whole and self.bytes > settings.replay_bytes)
        # Once something is missing of what was to be retained whole, the rest is of no use either.
        while self.inputs and self.inputs[0].number <= acknowledged:
            if not self.cut and (self.whole or self.units <= settings.replay):
                break
            self._drop_first()

    def _drop_first(self) -> None:
        one = self.inputs.popleft()
        self.lost = True
        self.units -= one.units
        self.bytes -= len(one.message)
        self.dropped += one.units


class Answers:
    """Answers that the caller has not taken yet, as the worker encoded them."""

    def __init__(self) -> None:
        self._bodies: deque[bytes] = deque()
        self.size = 0

    def __len__(self) -> int:
        return len(self._bodies)

    def add(self, body: bytes) -> None:
        """Add one, unless it is empty. Raises `ProtocolError`."""
        if self.size > 2 * MOST_UNREAD_BYTES:
            raise ProtocolError("more answers of a stream than fit")
        if unpack_list(body):
            self._bodies.append(body)
            self.size += len(body)

    def take(self) -> list[Any]:
        """Return all their values, and forget them."""
        bodies, self._bodies, self.size = self._bodies, deque(), 0
        return [value for body in bodies for value in unpack_list(body)]
