"""Store of prepared Vosk models, with the interface of `models.engine.PreparedStore`."""

from collections.abc import Mapping
from pathlib import Path

from models.contract import ModelError, ModelLocation
from models.engine import EngineSettings, Preparing
from models.leftovers import Leftover
from models.prepared.of_engine import MakerStore
from models.processor import processor_flags
from models.vosk import mapping
from models.vosk.blas import UnsupportedProcessor
from models.vosk.forms import VoskValues
from models.vosk.leftovers import old_builds
from models.vosk.prediction import predict
from models.vosk.prepared import (
    GRAPH_COMPILER,
    MAKER,
    Bounds,
    GraphCounts,
    PreparedModel,
    Starting,
    can_build,
    find_leftovers,
    must_be_affordable,
    prepare,
)
from models.vosk.simd import SIMD, SimdLibrary, choose_variant

_MOST = 2
"""Factor of its estimate that a preparation in the background may take."""

_PHASES = {
    "compiler": "building the graph compiler",
    "graph": "composing its graph",
    "check": "comparing answers",
    "place": "writing",
}


class VoskStore(MakerStore):
    """Implements `models.engine.PreparedStore`."""

    def __init__(self) -> None:
        super().__init__(MAKER)

    def must_be_possible(self, location: ModelLocation, settings: EngineSettings) -> None:
        """See `models.engine.PreparedStore`."""
        if (why := mapping.mapping_problem()) is not None:
            raise ModelError("cannot_map", why)
        if GRAPH_COMPILER.find(settings.store) is None and not can_build():
            raise ModelError("no_compiler", f"there is no compiler for it ({GRAPH_COMPILER.needs})")
        must_be_affordable(self.needs(location), settings.available, settings.store)

    def prepare(self, location: ModelLocation, how: Preparing) -> PreparedModel:
        """Prepare a model (see `models.engine.PreparedStore`). In the background it may take twice
        the estimate: a graph that grows past that would fill memory and disk."""
        needs, bounds = self.needs(location), Bounds(how.most_bytes)
        if how.background and not how.most_bytes:
            bounds = Bounds(_MOST * needs.mapped, _MOST * needs.memory)

        def progressed(phase: str, counts: GraphCounts) -> None:
            how.on_progress(_PHASES[phase], counts.states if phase == "graph" else 0)

        return prepare(
            location,
            how.settings.store,
            available_memory=how.settings.available,
            output=how.output,
            bounds=bounds,
            starting=starting(location, how.settings, how.environment),
            again=not how.background,
            on_progress=progressed,
        )

    def leftovers(self, store: Path) -> list[Leftover]:
        """See `models.engine.PreparedStore`."""
        return [*find_leftovers(store), *old_builds(store)]


def starting(
    location: ModelLocation, settings: EngineSettings, environment: Mapping[str, str]
) -> Starting:
    """Return how a server would start the process that loads the model once it is prepared, with
    `environment` beside what Vosk needs: for the comparison with its original."""
    values, store = VoskValues.of(settings), settings.store
    variant = choose_variant(processor_flags(), values.blas)
    library = SIMD.find(store) if values.simd != "off" else None
    simd = SimdLibrary(library, variant) if library is not None and variant is not None else None
    try:
        blas = values.blas_environment(predict(location.directory), simd=simd is not None)
    except UnsupportedProcessor as error:
        raise ModelError("cannot_afford", str(error)) from error
    layers = (simd.environment if simd else {}, environment)
    preload = ":".join(layer["LD_PRELOAD"] for layer in layers if layer.get("LD_PRELOAD"))
    return Starting({**environment, **blas, "LD_PRELOAD": preload}, simd.variant if simd else None)
