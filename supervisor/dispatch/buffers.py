"""Buffers of a stream: input for a replay, and answers for its caller."""

from collections import deque
from dataclasses import dataclass
from typing import Any

from supervisor.settings import StreamSettings
from supervisor.wire.messages import ProtocolError
from supervisor.wire.payload import unpack_list

MOST_UNREAD_BYTES = 8 * 1024 * 1024
"""Bytes of a stream's encoded answers that may be unread, beside a single one. A worker that sends
more has a bug, since it gets no input while so much is unread."""


@dataclass(frozen=True, slots=True)
class Input:
    """Encoded input of a stream."""

    number: int
    message: bytes
    units: float
    at: float
    """Time of arrival, by the loop's clock."""


class Replay:
    """Replay buffer: the input that was sent since the last checkpoint."""

    def __init__(self) -> None:
        self.inputs: deque[Input] = deque()
        """Inputs sent to the stream's current worker, numbered without gaps."""
        self.units = 0.0
        """Units in `inputs`."""
        self.bytes = 0
        """Bytes in `inputs` and in what is not sent yet."""
        self.dropped = 0.0
        """Units that are not or cannot be sent to any worker again."""
        self.lost = False
        """True if input that came since the last checkpoint was dropped."""
        self.whole = False
        """True if all input is to be retained."""
        self.cut = False
        """True if some input that was to be retained was dropped."""

    def drop(self, number: int) -> None:
        """Drop the inputs up to that one."""
        while self.inputs and self.inputs[0].number <= number:
            self._drop_first()

    def shed(self, acknowledged: int) -> None:
        """Drop answered input, to free memory."""
        self.cut = self.cut or self.whole
        self.drop(acknowledged)

    def trim(self, settings: StreamSettings, acknowledged: int) -> None:
        """Drop answered input beyond what the settings allow."""
        self.cut = self.cut or (self.whole and self.bytes > settings.replay_bytes)
        # Once a part of input that is needed whole is missing, the rest is useless, too.
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
    """Answers that the caller has not read yet, as the worker encoded them."""

    def __init__(self) -> None:
        self._bodies: deque[bytes] = deque()
        self.size = 0

    def __len__(self) -> int:
        return len(self._bodies)

    def add(self, body: bytes) -> None:
        """Add an answer, unless it is empty. Raises `ProtocolError`."""
        if self.size > 2 * MOST_UNREAD_BYTES:
            raise ProtocolError("more answers of a stream than fit")
        if unpack_list(body):
            self._bodies.append(body)
            self.size += len(body)

    def take(self) -> list[Any]:
        """Return the values of all answers, and forget them."""
        bodies, self._bodies, self.size = self._bodies, deque(), 0
        return [value for body in bodies for value in unpack_list(body)]
