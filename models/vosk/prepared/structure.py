"""Checks an imported const graph: every state and arc of it, before an engine that checks nothing
walks it."""

import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from models.vosk.graph_file import (
    ARC_BYTES,
    STATE_BYTES,
    GraphHeader,
    graph_problem,
    read_graph_header,
)

_BLOCK = 1 << 18
"""States or arcs that are checked together."""
_HEAD_BYTES = 8 << 20
_LOG_PROBABILITIES = b"<LogProbs> FV \x04"
"""Marker written by Kaldi's `TransitionModel::Write`: one logarithm follows for each transition id,
and one for 0."""


def structure_problem(graph: Path, model: Path, words: Path) -> str | None:
    """Return why an engine could not walk the aligned const `graph`, in words; None if it could.

    Every arc must lead to a state of the graph, take a sound of the acoustic model in the directory
    `model`, give a word of the table `words`, and have a finite weight. Reads the whole graph, some
    ten seconds per gigabyte. Raises `OSError`.
    """
    if (problem := graph_problem(graph)) is not None:
        return problem
    header = read_graph_header(graph)
    assert header is not None
    limits = (transition_ids(model), _last_word(words), header.states - 1)
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        counted = [0, 0]
        problem = _states_problem(data, header, counted)
        problem = problem or _arcs_problem(data, header, limits, counted)
    return None if problem is None else f"{graph.name}: {problem}"


def transition_ids(model: Path) -> int | None:
    """Return the number of sounds (transition ids) of the acoustic model in a model's directory;
    None if its file does not have it in the usual position. Raises `OSError`."""
    file = model / "am" / "final.mdl"
    with (file if file.is_file() else model / "final.mdl").open("rb") as reader:
        head = reader.read(_HEAD_BYTES)
    end = head.find(_LOG_PROBABILITIES) + len(_LOG_PROBABILITIES)
    if end < len(_LOG_PROBABILITIES) or len(head) < end + 4:
        return None
    (count,) = struct.unpack_from("<i", head, end)
    return int(count) - 1


def _last_word(words: Path) -> int | None:
    """Return the highest number in a `words.txt`; None if there is no such file."""
    try:
        with words.open("rb") as lines:
            return max((int(line.rpartition(b" ")[2]) for line in lines), default=0)
    except (FileNotFoundError, ValueError):
        return None


def _blocks(data: mmap.mmap, at: int, count: int, size: int) -> Iterator[bytes]:
    for first in range(0, count, _BLOCK):
        begin = at + first * size
        yield data[begin : begin + min(_BLOCK, count - first) * size]


def _states_problem(data: mmap.mmap, header: GraphHeader, counted: list[int]) -> str | None:
    """Return what is wrong with its states; `counted` receives the arcs without a sound and without
    a word that they claim to have."""
    next_arc = 0
    for block in _blocks(data, header.states_at, header.states, STATE_BYTES):
        integers, floats = memoryview(block).cast("I"), memoryview(block).cast("f")
        firsts, counts = integers[1::5].tolist(), integers[2::5].tolist()
        for first, count in zip(firsts, counts, strict=True):
            if first != next_arc:
                return "the arcs of a state do not follow those of the state before it"
            next_arc += count
        counted[0] += sum(integers[3::5].tolist())
        counted[1] += sum(integers[4::5].tolist())
        if not all(-math.inf < final for final in floats[0::5].tolist()):  # NaN is not, either
            return "a final weight is not a number"
    return None if next_arc == header.arcs else "some arcs belong to no state"


def _arcs_problem(
    data: mmap.mmap,
    header: GraphHeader,
    limits: tuple[int | None, int | None, int],
    counted: list[int],
) -> str | None:
    faults = (
        "an arc takes a sound that the acoustic model does not have",
        "an arc gives a word that the table of words does not have",
        "an arc leads out of the graph",
    )
    without = [0, 0]
    for block in _blocks(data, header.arcs_at, header.arcs, ARC_BYTES):
        integers = memoryview(block).cast("i")
        for column, limit, fault in zip((0, 1, 3), limits, faults, strict=True):
            values = integers[column::4].tolist()
            if min(values) < 0 or (limit is not None and max(values) > limit):
                return fault
            if column < 2:
                without[column] += values.count(0)
        if not math.isfinite(sum(memoryview(block).cast("f")[2::4].tolist())):
            return "a weight is not a number"
    return None if without == counted else "its counts of arcs are wrong"
