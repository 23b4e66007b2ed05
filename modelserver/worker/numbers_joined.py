"""Numbers of a text that belong together: written in figures together, or not at all."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto


@dataclass
class Number:
    """A numeral in a text, from `start` to `end`."""

    start: int
    end: int
    written: str | None = None
    """Figures; None if it stays as it was spoken, with all that belongs to it."""
    certain: bool = False
    """True if it is surely a number; else it is written only beside one that is."""

    def write(self, written: str, *, certain: bool) -> None:
        """Set the figures and whether they are certain."""
        self.written, self.certain = written, certain

    def leave(self) -> None:
        """Leave it as it was spoken."""
        self.written, self.certain = None, False


class Link(Enum):
    """Relation of two numbers that follow one another."""

    NOTHING = auto()
    TOGETHER = auto()
    """Write both if one of them is certain."""
    CERTAIN = auto()
    """Treat both as certain: a day and a month."""
    UNCLEAR = auto()
    """Write neither of them."""


def joined(numbers: Iterable[Number], link: Callable[[Number, Number], Link]) -> list[Number]:
    """Return the numbers to be written, of numbers in the order of the text."""
    chains = list[list[Number]]()
    for number in numbers:
        kind = link(chains[-1][-1], number) if chains else Link.NOTHING
        if kind is Link.NOTHING:
            chains.append([number])
            continue
        chains[-1].append(number)
        for one in chains[-1][-2:]:
            if kind is Link.UNCLEAR:
                one.leave()
            elif kind is Link.CERTAIN:
                one.certain = True
    return [
        one
        for chain in chains
        if any(one.certain for one in chain) and all(one.written is not None for one in chain)
        for one in chain
    ]


def replaced(text: str, numbers: Iterable[Number]) -> str:
    """Return the text with those numbers in figures."""
    pieces, at = list[str](), 0
    for number in numbers:
        pieces += [text[at : number.start], number.written or ""]
        at = number.end
    return "".join([*pieces, text[at:]])
