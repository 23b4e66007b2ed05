"""What preparing will need, before it starts: time, memory and disk.

Measured on the embedded model (230 MB of graphs in 187 s, 1.52 GB at the peak, 998 MB made) and
scaled by the size of the graphs that are composed. Another model's language model may compose to
more or less than that: this is a guess, and `--max-size` is the bound.
"""

from dataclasses import dataclass
from pathlib import Path

from models.contract import ModelError
from models.durable import free_for_us
from models.vosk.layout import HCL, LAZY, STATIC, graph_directory

_REFERENCE_BYTES = 230_031_555
_REFERENCE_SECONDS = 190.0
_REFERENCE_PEAK_BYTES = 1_520_000_000
_REFERENCE_STATES = 14_012_064
_REFERENCE_GRAPH_BYTES = 998_000_000
_ARCS_SHARE = 0.72
"""Of a graph's bytes; they are written twice."""

_SELF_CHECK_BYTES = 700_000_000
"""For the self-check, which loads the original; and the least that is asked for."""


@dataclass(frozen=True, slots=True)
class Needs:
    """An estimate. Sizes in bytes."""

    seconds: float
    memory: int
    disk: int
    states: int
    graph: int
    """Of the graph that is made."""

    @property
    def steps(self) -> int:
        """Steps of its progress: states of the graph."""
        return self.states

    def in_words(self) -> str:
        """For a person."""
        return (
            f"about {max(1, round(self.seconds / 60))} min of one processor, "
            f"{self.memory / 1e9:.1f} GB of memory and {self.disk / 1e9:.1f} GB of disk"
        )


def estimate_needs(model: Path) -> Needs:
    """What preparing the model in this directory will need. Raises `ModelError`."""
    directory = graph_directory(model)
    try:
        if (directory / HCL).is_file():
            size = sum((directory / name).stat().st_size for name in LAZY)
            scale = size / _REFERENCE_BYTES
            graph = scale * _REFERENCE_GRAPH_BYTES
            return Needs(
                seconds=scale * _REFERENCE_SECONDS + 20,
                memory=max(_SELF_CHECK_BYTES, round(scale * _REFERENCE_PEAK_BYTES)),
                disk=round(graph * (1 + _ARCS_SHARE)),
                states=round(scale * _REFERENCE_STATES),
                graph=round(graph),
            )
        graph = (directory / STATIC).stat().st_size
    except OSError as error:
        raise ModelError("model_unreadable", f"{error.filename}: {error.strerror}") from error
    return Needs(20 + graph / 1e8, max(_SELF_CHECK_BYTES, 2 * graph), 2 * graph, graph // 71, graph)


def must_be_affordable(needs: Needs, available_memory: int, directory: Path) -> None:
    """Raises `ModelError` (`cannot_afford`) where memory or disk are short."""
    free = free_for_us(directory)
    short = []
    if needs.memory > available_memory:
        short.append(f"{available_memory / 1e9:.1f} GB of memory is available")
    if needs.disk > free:
        short.append(f"{free / 1e9:.1f} GB of disk is free in {directory}")
    if short:
        raise ModelError(
            "cannot_afford", f"preparing needs {needs.in_words()}; {' and '.join(short)}"
        )
