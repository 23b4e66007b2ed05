"""What a benchmark found: sentences, tables, plots, and the figures themselves."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import utterances


@dataclass(frozen=True)
class Asked:
    """What all benchmarks are told. `full`: take as long as it takes; `audio`: a directory of
    16 kHz mono WAV files; `before`: a checkout of another commit to measure beside this one, and
    what to call it."""

    full: bool
    rounds: int
    audio: Path
    before: Path | None = None
    before_name: str = ""

    def files(self) -> list[bytes]:
        """The longest first, so that at the end of a round nobody waits long for the last one."""
        return sorted(utterances.utterances(self.audio, 10_000), key=len, reverse=True)

    def short(self, longest_s: float) -> list[bytes]:
        """Those files, each no longer than that."""
        return [pcm[: int(longest_s * utterances.RATE) * 2] for pcm in self.files()]


@dataclass(frozen=True)
class Table:
    """As it is printed."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Line:
    """One line of a plot."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Plot:
    """`name`: of its file; `marks`: moments along x, with what happened then."""

    name: str
    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log_x: bool = False
    log_y: bool = False
    marks: Sequence[tuple[float, str]] = ()
    steps: bool = False


@dataclass
class Finding:
    """`said`: sentences; `raw`: all figures, as JSON can have them."""

    said: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def bar(self, what: str, wanted: float, found: Sequence[float], *, most: bool = False) -> None:
        """Whether a bar is met by the median."""
        if not found:
            self.said.append(f"{what}: not measured (bar: {wanted:g}).")
            return
        middle = statistics.median(found)
        met = middle <= wanted if most else middle >= wanted
        self.said.append(
            f"{what}: {middle:.3g}; the bar is {'at most' if most else 'at least'} {wanted:g}: "
            f"{'met' if met else 'not met'}."
        )
        self.raw.setdefault("bars", []).append(
            {"what": what, "wanted": wanted, "found": list(found), "met": met}
        )


class LeftOutError(Exception):
    """What a benchmark needs is not to be had here."""


def say(text: str) -> None:
    """Progress."""
    print(f"    {text}", file=sys.stderr, flush=True)
