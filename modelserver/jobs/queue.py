"""The jobs of one model that wait, in the order of their turns: owners have theirs fairly, by the
seconds of audio that they bring (start-time fair queueing, Goyal, Vin and Cheng, 1996)."""

import bisect
import itertools
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)
_Key = tuple[float, int]


class Line(Generic[Item]):
    """Iterating gives what waits, the next one first. A position in it is found without a walk."""

    def __init__(self) -> None:
        self._keys: list[_Key] = []
        self._items: dict[_Key, Item] = {}
        self._entries: dict[Item, tuple[_Key, str, float]] = {}
        self._numbers = itertools.count()
        self._now = 0.0
        self._ends: dict[str, float] = {}
        """When all that an owner has brought is over, where that is still to come."""

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Item]:
        return iter([self._items[key] for key in self._keys])

    def __contains__(self, item: object) -> bool:
        return item in self._entries

    def add(self, item: Item, owner: str, cost: float) -> None:
        """Put it behind what its owner has brought; `cost` in seconds of audio."""
        start = max(self._now, self._ends.get(owner, 0.0))
        self._ends[owner] = start + cost
        self._insert((start, next(self._numbers)), item, owner, cost)

    def put_back(self, item: Item, owner: str) -> None:
        """Put an item first that has had its turn."""
        self._insert((float("-inf"), next(self._numbers)), item, owner, 0.0)

    def take(self, item: Item) -> None:
        """Take an item out, even if it is not the next. Raises `KeyError` if it does not wait."""
        (start, _), _, _ = self._remove(item)
        self._now = max(self._now, start)
        if not self._keys:
            self._ends.clear()
        elif len(self._ends) > 2 * len(self._keys) + 16:
            self._ends = {who: end for who, end in self._ends.items() if end > self._now}

    def discard(self, item: Item) -> None:
        """Remove an item, if it waits: what is not done is not charged."""
        if item in self._entries:
            _, owner, cost = self._remove(item)
            if owner in self._ends:
                self._ends[owner] -= cost

    def position(self, item: Item) -> int | None:
        """Return the position of an item, from 1; None if it does not wait."""
        if (entry := self._entries.get(item)) is None:
            return None
        return bisect.bisect_left(self._keys, entry[0]) + 1

    def _insert(self, key: _Key, item: Item, owner: str, cost: float) -> None:
        bisect.insort(self._keys, key)
        self._items[key] = item
        self._entries[item] = key, owner, cost

    def _remove(self, item: Item) -> tuple[_Key, str, float]:
        entry = self._entries.pop(item)
        del self._keys[bisect.bisect_left(self._keys, entry[0])]
        del self._items[entry[0]]
        return entry
