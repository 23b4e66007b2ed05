"""Loading a Vosk model: through a view without dither, its graph mapped if it is prepared.

Vosk needs the view only while it loads. Imported only where a model is loaded.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from models.contract import ModelError
from models.prepared.view import files_in, make_view
from models.vosk.binding import bind_hash_tables
from models.vosk.blas import kernel_report
from models.vosk.features import served_features
from models.vosk.graph_file import graph_problem
from models.vosk.layout import HCL, LAZY_INSIDE, STATIC, graph_directory
from models.vosk.mapping import CannotMap, advise_random, find_mappings, mapped_reading
from models.vosk.prediction import TOUCHED_SHARE
from models.vosk.simd.preloaded import PreloadedSimd, SimdUnavailable


class _Nothing(ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


@contextlib.contextmanager
def _as_nothing(*names: str) -> Iterator[None]:
    """Replace modules that are not imported yet, within the block, by modules in which every name
    is None."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update({name: _Nothing(name) for name in absent})
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


_unbound = bind_hash_tables()
"""Reason why results may differ from those of other processes; None if they cannot."""

# No other module imports it first, since its output on loading has to be caught. The modules with
# which it fetches models and writes subtitles are not needed here, and would take five megabytes of
# every fork server.
with kernel_report() as _kernel, _as_nothing("requests", "srt", "tqdm", "urllib.request"):
    import vosk

__all__ = ["Loaded", "load_vosk", "vosk"]

_LIBRARY = Path(vosk.__file__).parent / "libvosk.so"
_WEIGHTS_MOST, _WEIGHTS_SPARE = 8, 64 << 20
"""Address space for weights, as a factor of their files: for values derived from them and for the
copies that loading makes and drops; unused space is released."""
_PACKED_SPARE = 1 << 20
"""Bytes to spare, since packed weights are padded to whole panels."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Facts about a load. `mapped_bytes` is None if the graph is not mapped, and `not_mapped` says
    why one that could be is not; `simd` is None if that library is not used."""

    lazy: bool
    mapped_bytes: int | None = None
    graph: Path | None = None
    not_mapped: str | None = None
    simd: PreloadedSimd | None = None
    not_packed: str | None = None
    """Reason why the SIMD library is not used although it was requested."""

    def report(self) -> dict[str, Any]:
        """Return facts for logs and status pages."""
        graph = "lazy" if self.lazy else ("static" if self.mapped_bytes is None else "mapped")
        mapped = self.mapped_bytes
        working_set = None if mapped is None else int(TOUCHED_SHARE * mapped)
        facts = {
            "graph": graph,
            "mapped_bytes": self.mapped_bytes,
            "working_set_bytes": working_set,
            "not_mapped": self.not_mapped,
            "blas_kernel": _kernel.kernel,
            "unbound": _unbound,
        }
        return {name: fact for name, fact in facts.items() if fact is not None}


def load_vosk(
    directory: Path,
    made: Mapping[str, Path],
    left_out: tuple[str, ...] = (),
    variant: str | None = None,
) -> tuple[vosk.Model, Loaded]:
    """Load the model in `directory` with `made` in place of its own files, without the folders
    `left_out`, with that `variant` of the SIMD library (None: without it).

    If the library would copy a compiled graph instead of mapping it, the model's own graph is used.
    Raises `ModelError` if Vosk refuses the files.
    """
    # The working directory may be another one after loading.
    directory = directory.absolute()
    made = {name: file.absolute() for name, file in made.items()}
    if variant is None:
        return _load_graph(directory, made, left_out)
    try:
        simd = PreloadedSimd.attach(_LIBRARY, variant)
        network = _network_bytes(directory)
        with simd.weights(_WEIGHTS_MOST * network + _WEIGHTS_SPARE, network + _PACKED_SPARE):
            model, loaded = _load_graph(directory, made, left_out)
    except SimdUnavailable as error:
        model, loaded = _load_graph(directory, made, left_out)
        return model, replace(loaded, not_packed=str(error))
    return model, replace(loaded, simd=simd)


def _network_bytes(directory: Path) -> int:
    """Return the size of the files from which the engine makes matrices."""
    folders = (directory, directory / "am", directory / "ivector", directory / "rnnlm")
    files = [file for folder in folders if folder.is_dir() for file in folder.iterdir()]
    return sum(file.stat().st_size for file in files if file.is_file())


def _load_graph(
    directory: Path, made: Mapping[str, Path], left_out: tuple[str, ...]
) -> tuple[vosk.Model, Loaded]:
    graph = _static_graph(directory, made)
    if graph is None or graph_problem(graph) is not None:
        return _load(directory, made, left_out), Loaded(lazy=graph is None)
    try:
        return _load_mapped(directory, made, graph, left_out)
    except CannotMap as error:
        reason = str(error)  # the error would keep the model of the failed load alive
    lazy = _is_lazy(directory)
    own = {} if lazy else made
    return _load(directory, own, left_out), Loaded(lazy=lazy, not_mapped=reason)


def _load_mapped(
    directory: Path, made: Mapping[str, Path], graph: Path, left_out: tuple[str, ...]
) -> tuple[vosk.Model, Loaded]:
    with (
        tempfile.TemporaryDirectory(prefix="modelserver-map-") as temporary,
        mapped_reading(_LIBRARY, graph, Path(temporary)),
    ):
        model = _load(directory, made, left_out)
    mappings = find_mappings(graph)
    mapped_bytes = sum(mapping.length for mapping in mappings)
    if mapped_bytes < 0.9 * graph.stat().st_size:
        del model
        raise CannotMap("the library read the graph without mapping it")
    advise_random(mappings)
    return model, Loaded(lazy=False, mapped_bytes=mapped_bytes, graph=graph)


def _load(directory: Path, made: Mapping[str, Path], folders: tuple[str, ...]) -> vosk.Model:
    with tempfile.TemporaryDirectory(prefix="modelserver-view-") as temporary:
        view = Path(temporary)
        replaced: dict[str, bytes | Path] = {**made, **served_features(directory)}
        left_out = frozenset[str]() if _made_graph(made) is None else LAZY_INSIDE
        left_out |= {
            f"{folder}/{name}" for folder in folders for name in _names(directory / folder)
        }
        make_view(directory, view, replaced, left_out)
        try:
            return vosk.Model(str(view))
        except Exception as error:
            raise ModelError("model_unreadable", f"Vosk cannot read {directory}") from error


def _names(folder: Path) -> list[str]:
    return [str(file.relative_to(folder)) for file in files_in(folder)]


def _static_graph(directory: Path, made: Mapping[str, Path]) -> Path | None:
    """Return the static graph that Vosk would read; None if it would compose one."""
    own = graph_directory(directory) / STATIC
    return _made_graph(made) or (own if own.is_file() else None)


def _made_graph(made: Mapping[str, Path]) -> Path | None:
    return next((file for name, file in made.items() if Path(name).name == STATIC), None)


def _is_lazy(directory: Path) -> bool:
    return (graph_directory(directory) / HCL).is_file()
