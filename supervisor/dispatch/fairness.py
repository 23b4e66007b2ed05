"""A fair queue: a client that sends much does not keep others waiting.

Start-time fair queueing (Goyal, Vin, Cheng, 1996): an item's start tag is the virtual time at which
all earlier items of its client are done; items are taken in the order of their start tags. Without
clients the queue is first in, first out. It is a plain value, without a clock.
"""

import bisect
import itertools
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(order=True, slots=True)
class _Waiting(Generic[Item]):
    start: float
    number: int
    item: Item = field(compare=False)
    client: Hashable = field(compare=False, default=None)
    cost: float = field(compare=False, default=0.0)


class FairQueue(Generic[Item]):
    """Queue of items; iterating gives the waiting items, the next one first. Items are compared by
    identity."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting[Item]] = []
        self._numbers = itertools.count()
        self._now = 0.0
        self._ends: dict[Hashable, float] = {}
        """Virtual time at which all items of a client are done, if that is still to come."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Item]:
        return iter([waiting.item for waiting in self._waiting])

    def add(self, item: Item, client: Hashable = None, cost: float = 1.0) -> None:
        """Add an item; `cost` in units that are the same for all."""
        start = max(self._now, self._ends.get(client, 0.0))
        self._ends[client] = start + cost
        bisect.insort(self._waiting, _Waiting(start, next(self._numbers), item, client, cost))

    def put_back(self, item: Item) -> None:
        """Put back an item that was taken before: it is the next again."""
        self._waiting.insert(0, _Waiting(float("-inf"), next(self._numbers), item))

    def first(self) -> Item | None:
        """Return the next item, without removing it; None if nothing waits."""
        return self._waiting[0].item if self._waiting else None

    def take(self, item: Item) -> None:
        """Take an item, even if it is not the next. Raises `ValueError` if it does not wait."""
        taken = self._waiting.pop(self._index(item))
        self._now = max(self._now, taken.start)
        if not self._waiting:
            self._ends.clear()
        elif len(self._ends) > 2 * len(self._waiting) + 16:
            self._ends = {who: end for who, end in self._ends.items() if end > self._now}

    def discard(self, item: Item) -> None:
        """Remove an item, if it waits."""
        for at, waiting in enumerate(self._waiting):
            if waiting.item is item:
                del self._waiting[at]
                if waiting.client in self._ends:  # work that is not done is not counted
                    self._ends[waiting.client] -= waiting.cost
                return

    def clear(self) -> list[Item]:
        """Remove all items, and return them."""
        items = list(self)
        self._waiting.clear()
        self._ends.clear()
        return items

    def _index(self, item: Item) -> int:
        for at, waiting in enumerate(self._waiting):
            if waiting.item is item:
                return at
        raise ValueError("it does not wait")
