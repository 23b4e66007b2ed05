"""Prepared models: models with a compiled graph, which was composed once, ahead of time.

A prepared model is a directory of links to its original, plus what is made new: the compiled graph,
aligned so that it can be mapped, its word list, and a configuration without dither.
"""

from models.leftovers import Leftover, remove_leftover
from models.vosk.prepared.carry import export_prepared, import_prepared
from models.vosk.prepared.compiler import GRAPH_COMPILER, GraphCounts, can_build
from models.vosk.prepared.leftovers import find_leftovers
from models.vosk.prepared.needs import Needs, estimate_needs, must_be_affordable
from models.vosk.prepared.prepare import Bounds, Progress, prepare
from models.vosk.prepared.selfcheck import Starting
from models.vosk.prepared.store import (
    Lookup,
    PreparedModel,
    changed_size,
    find_prepared,
    prepared_models,
    remove,
    verify,
)

__all__ = [
    "GRAPH_COMPILER",
    "Bounds",
    "GraphCounts",
    "Leftover",
    "Lookup",
    "Needs",
    "PreparedModel",
    "Progress",
    "Starting",
    "can_build",
    "changed_size",
    "estimate_needs",
    "export_prepared",
    "find_leftovers",
    "find_prepared",
    "import_prepared",
    "must_be_affordable",
    "prepare",
    "prepared_models",
    "remove",
    "remove_leftover",
    "verify",
]
