"""Whose turn it is: a queue in which a client that brings much does not keep others waiting.

Start-time fair queueing (Goyal, Vin, Cheng, 1996): what a client brings is taken to begin when all
that it brought before is over, in a time that passes with the work; what begins first goes first.
Without clients it is first in, first out. A value, without a clock of its own.
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
    """Iterating gives what waits, the next one first. Items are told apart by identity."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting[Item]] = []
        self._numbers = itertools.count()
        self._now = 0.0
        self._ends: dict[Hashable, float] = {}
        """When all that a client has brought is over, where that is still to come."""

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
        """Put an item back that has had its turn once: it is the next again."""
        self._waiting.insert(0, _Waiting(float("-inf"), next(self._numbers), item))

    def first(self) -> Item | None:
        """Return the next one, which stays; None if nothing waits."""
        return self._waiting[0].item if self._waiting else None

    def take(self, item: Item) -> None:
        """Take an item out, even if it is not the next: it has its turn. Raises `ValueError` if it
        is not in."""
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
                if waiting.client in self._ends:  # what is not done is not counted
                    self._ends[waiting.client] -= waiting.cost
                return

    def clear(self) -> list[Item]:
        """Return what still waited, and does not any more."""
        items = list(self)
        self._waiting.clear()
        self._ends.clear()
        return items

    def _index(self, item: Item) -> int:
        for at, waiting in enumerate(self._waiting):
            if waiting.item is item:
                return at
        raise ValueError("it does not wait")
