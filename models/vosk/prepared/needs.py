"""Estimate of the cost of preparing: time, memory and disk.

Measured on the embedded model (230 MB of graphs in 187 s, 1.52 GB at the peak, 998 MB made) and
scaled by the size of the graphs that are composed. Another model's language model may compose to
more or less than that: this is a guess, and `--max-size` is the bound.
"""

from pathlib import Path

from models.contract import ModelError
from models.prepared.maker import Needs
from models.vosk.layout import HCL, LAZY, STATIC, graph_directory

_REFERENCE_BYTES = 230_031_555
_REFERENCE_SECONDS = 190.0
_REFERENCE_PEAK_BYTES = 1_520_000_000
_REFERENCE_STATES = 14_012_064
_REFERENCE_GRAPH_BYTES = 998_000_000
_ARCS_SHARE = 0.72
"""Share of the arcs in a graph's bytes; they are written twice."""

_SELF_CHECK_BYTES = 700_000_000
"""Bytes of memory for the self-check, which loads the original; the smallest estimate."""


def estimate_needs(model: Path) -> Needs:
    """Return the cost of preparing the model in this directory. Raises `ModelError`."""
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
                steps=round(scale * _REFERENCE_STATES),
                mapped=round(graph),
            )
        graph = (directory / STATIC).stat().st_size
    except OSError as error:
        raise ModelError("model_unreadable", f"{error.filename}: {error.strerror}") from error
    return Needs(20 + graph / 1e8, max(_SELF_CHECK_BYTES, 2 * graph), 2 * graph, graph // 71, graph)
