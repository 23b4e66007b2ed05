"""A bounded ring of packed records, which takes little memory however long it is filled."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

import msgspec

Record = TypeVar("Record", bound=msgspec.Struct)

_encode = msgspec.msgpack.Encoder().encode


class PackedRing(Generic[Record]):
    """The newest records of one kind, the oldest of them first. Each is packed, and decoded when it
    is read."""

    __slots__ = ("_decoder", "_packed")

    def __init__(
        self, decoder: "msgspec.msgpack.Decoder[Record]", most: int, packed: Iterable[bytes] = ()
    ) -> None:
        """Create a ring of at most `most` records, beginning with `packed`."""
        self._decoder = decoder
        self._packed: deque[bytes] = deque(packed, maxlen=most)

    @classmethod
    def of(cls, kind: type[Record], most: int) -> "PackedRing[Record]":
        """Return an empty ring."""
        return cls(msgspec.msgpack.Decoder(kind), most)

    def append(self, record: Record) -> None:
        """Append a record; the oldest is removed if there are too many."""
        self._packed.append(_encode(record))

    def newest(self, most: int) -> "PackedRing[Record]":
        """Return a ring of at most the `most` newest records, which shares their memory."""
        return PackedRing(self._decoder, most, islice(self._packed, max(0, len(self) - most), None))

    def __len__(self) -> int:
        return len(self._packed)

    def __iter__(self) -> Iterator[Record]:
        return map(self._decoder.decode, self._packed)

    def __reversed__(self) -> Iterator[Record]:
        return map(self._decoder.decode, reversed(self._packed))

    def __getitem__(self, at: int) -> Record:
        return self._decoder.decode(self._packed[at])
