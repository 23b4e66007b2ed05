"""Results of a benchmark: sentences, tables, plots and all figures."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import utterances


@dataclass(frozen=True)
class Asked:
    """Options of a run. `full`: take hours; `audio`: a directory of 16 kHz mono WAV files;
    `before`: a checkout of another commit to measure beside this one, and its name."""

    full: bool
    rounds: int
    audio: Path
    before: Path | None = None
    before_name: str = ""

    def files(self) -> list[bytes]:
        """Return the longest first, so that the last one of a round is short."""
        return sorted(utterances.utterances(self.audio, 10_000), key=len, reverse=True)

    def short(self, longest_s: float) -> list[bytes]:
        """Return the files, each cut to that length."""
        return [pcm[: int(longest_s * utterances.RATE) * 2] for pcm in self.files()]


@dataclass(frozen=True)
class Table:
    """A table of a report, with texts in its cells."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Line:
    """A line in a plot."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Plot:
    """A plot in a file called `name`. `marks`: moments along x, each with a text."""

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
    """The result of a benchmark: sentences about it (`notes`), tables, plots, and all figures
    (`raw`). `targets` are for the console: the report has figures only."""

    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    targets: list[str] = field(default_factory=list)

    def target(
        self, name: str, wanted: float, found: Sequence[float], *, most: bool = False
    ) -> None:
        """Note whether the median reaches what the developers aim at."""
        if not found:
            self.targets.append(f"{name}: not measured (target {wanted:g})")
            return
        middle = statistics.median(found)
        met = middle <= wanted if most else middle >= wanted
        self.targets.append(
            f"{name}: {middle:.3g} (target: at {'most' if most else 'least'} {wanted:g}, "
            f"{'met' if met else 'not met'})"
        )


class LeftOutError(Exception):
    """A benchmark cannot run here; the message says what it needs."""


def say(text: str) -> None:
    """Print progress to standard error."""
    print(f"    {text}", file=sys.stderr, flush=True)
