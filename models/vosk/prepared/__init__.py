"""Prepared Vosk models: models with a compiled graph, which was composed once, ahead of time.

The files that are made are the compiled graph, aligned so that it can be mapped, its word list, and
a configuration without dither.
"""

from pathlib import Path

from models import prepared as any_engine
from models.contract import ModelLocation
from models.leftovers import Leftover, remove_leftover
from models.prepared.maker import Needs, must_be_affordable
from models.prepared.store import Lookup, PreparedModel, changed_size, prepared_models, remove
from models.vosk.building import killed_builds
from models.vosk.prepared.compiler import GRAPH_COMPILER, GraphCounts, can_build
from models.vosk.prepared.make import MAKER, Bounds, Progress, compiled_graph, prepare
from models.vosk.prepared.needs import estimate_needs
from models.vosk.prepared.selfcheck import Starting

__all__ = [
    "GRAPH_COMPILER",
    "MAKER",
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
    "compiled_graph",
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


def find_prepared(location: ModelLocation, store: Path) -> Lookup:
    """See `models.prepared.store.find_prepared`."""
    return any_engine.find_prepared(location, store, MAKER)


def verify(prepared: PreparedModel) -> list[str]:
    """See `models.prepared.store.verify`."""
    return any_engine.verify(prepared, MAKER)


def find_leftovers(store: Path) -> list[Leftover]:
    """Return leftovers (`models.prepared.leftovers.find_leftovers`), also of builds that were
    killed."""
    return [*any_engine.find_leftovers(store, MAKER), *killed_builds(store)]


def export_prepared(prepared: PreparedModel, file: Path) -> None:
    """See `models.prepared.carry.export_prepared`."""
    any_engine.export_prepared(prepared, file, MAKER)


def import_prepared(
    file: Path, location: ModelLocation, store: Path, *, available_memory: int = 0
) -> PreparedModel:
    """See `models.prepared.carry.import_prepared`."""
    memory = available_memory
    return any_engine.import_prepared(file, location, store, MAKER, available_memory=memory)
