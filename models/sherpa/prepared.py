"""Preparation of ONNX models: optimised networks, whose weights are laid out as they are used.

ONNX Runtime optimises a network and copies its weights into another order each time that it loads
them, into unreclaimable memory. For a prepared network this was done once: its weights lie in a
file beside it, in the order in which they are used, and are mapped. That order depends on the build
of ONNX Runtime and on the processor, so both are part of `OnnxMaker.version`.
"""

import functools
import hashlib
import resource
from collections.abc import Callable, Mapping
from pathlib import Path

from models.contract import ModelError, ModelLocation
from models.engine import EngineSettings, Preparing
from models.prepared import FileStamp, Manifest, Needs, PreparedModel
from models.prepared import prepare as prepare_any
from models.prepared.maker import Made, Progress, must_be_affordable
from models.prepared.of_engine import MakerStore
from models.prepared.view import make_view
from models.sherpa.files import disk_bytes, weights_beside
from models.sherpa.layout import Layout, recognise
from models.sherpa.metadata import NotOnnx, read_metadata
from models.sherpa.refusals import NotRecognised
from models.sherpa.runtime import Runtime, library_file, weights_layout
from models.sherpa.selfcheck import must_answer_alike

_STEP_BYTES = 1_000_000
"""Bytes of networks that count as one step of progress."""
_BYTES_A_SECOND = 20_000_000
"""Bytes of networks that are optimised per second, on one core (measured: Whisper base, 132 MB in 5
s)."""
_WRITTEN, _PEAK, _PEAK_MORE = 2.2, 4.0, 400_000_000
"""Factors from the networks' size on disk: to the bytes that are written at most (8-bit weights
grow by a half to twice, others hardly), and to the memory that it takes; and bytes for Python and
the engine of the self-check."""
_LEAST_EXTERNAL_BYTES = "1024"
"""Bytes from which on a weight goes into the file beside the network."""


class OnnxMaker:
    """Implements `models.prepared.Maker`."""

    @property
    def version(self) -> str:
        """Version by the build of ONNX Runtime and the processor's instructions (see `Maker`)."""
        return f"onnx-prepare 1, runtime {_runtime_digest()}, processor {_processor_digest()}"

    def stamp_sources(self, model: Path) -> dict[str, FileStamp]:
        """Return the networks, and the files with weights beside them."""
        layout = _recognised(model)
        files = {
            file for network in layout.networks for file in (network, *weights_beside(network))
        }
        return {str(file.relative_to(model)): FileStamp.of(file) for file in sorted(files)}

    def estimate_needs(self, model: Path) -> Needs:
        """Return the cost of preparing, from the sizes of the networks (see `Maker`). Raises
        `ModelError`."""
        try:
            size = sum(disk_bytes(network) for network in _recognised(model).networks)
        except OSError as error:
            raise ModelError("model_unreadable", f"{error.filename}: {error.strerror}") from error
        return Needs(
            seconds=5 + size / _BYTES_A_SECOND,
            memory=round(_PEAK * size) + _PEAK_MORE,
            disk=round(_WRITTEN * size),
            steps=size // _STEP_BYTES,
            mapped=round(_WRITTEN * size),
        )

    def knows(self, manifest: Manifest) -> bool:
        """See `Maker`."""
        return all(name.endswith((".onnx", ".onnx.data")) for name in manifest.made)

    def damage(self, directory: Path) -> str | None:
        """Return how it is damaged (see `Maker`). Links are not followed: the rest of the model is
        read from the original."""
        for network in sorted(directory.rglob("*.onnx")):
            try:
                if not network.is_symlink():
                    read_metadata(network)
            except NotOnnx as error:
                return f"{network.name}: {error}"
            except OSError as error:
                return f"{error.filename}: {error.strerror}"
        return None

    def link(self, original: Path, prepared: Path, made: frozenset[str]) -> None:
        """Link the rest (see `Maker`), without weights of the original that have been laid out
        again."""
        networks = _recognised(original).networks
        old = {
            file
            for network in networks
            if _is_onnx(network)
            for file in (network, *weights_beside(network))
        }
        make_view(original, prepared, {}, made | {str(file.relative_to(original)) for file in old})

    def check_import(
        self, location: ModelLocation, prepared: Path, store: Path, available_memory: int
    ) -> None:
        """Compare the answers of the imported networks with the original's, if memory suffices."""
        if available_memory >= self.estimate_needs(location.directory).memory:
            must_answer_alike(location, prepared)


MAKER = OnnxMaker()


_PHASES = {"graph": "laying out its weights", "check": "comparing answers", "place": "writing"}


class SherpaStore(MakerStore):
    """Implements `models.engine.PreparedStore`."""

    def __init__(self) -> None:
        super().__init__(MAKER)

    def must_be_possible(self, location: ModelLocation, settings: EngineSettings) -> None:
        """See `models.engine.PreparedStore`."""
        library_file()
        must_be_affordable(self.needs(location), settings.available, settings.store)

    def prepare(self, location: ModelLocation, how: Preparing) -> PreparedModel:
        """See `models.engine.PreparedStore`."""
        return prepare(
            location,
            how.settings.store,
            available_memory=how.settings.available,
            output=how.output,
            most_bytes=how.most_bytes,
            environment=how.environment,
            again=not how.background,
            on_progress=lambda phase, steps: how.on_progress(_PHASES[phase], steps),
        )


def prepare(
    location: ModelLocation,
    store: Path,
    *,
    available_memory: int,
    output: Path | None = None,
    most_bytes: int = 0,
    environment: Mapping[str, str] | None = None,
    again: bool = True,
    on_progress: Progress = lambda *_: None,
) -> PreparedModel:
    """Prepare an ONNX model (`models.prepared.prepare`). `most_bytes`: of the result, 0 for any;
    `environment`: see `must_answer_alike`. Raises `ModelError`, among others with the code
    `does_not_pay` if it would hardly take less memory."""

    def begin() -> tuple[str, Callable[[Path], Made]]:
        return MAKER.version, lambda partial: _make(
            location, partial, most_bytes, environment, on_progress
        )

    memory = available_memory
    return prepare_any(
        location, store, MAKER, begin, available_memory=memory, output=output, again=again
    )


def _make(
    location: ModelLocation,
    partial: Path,
    most_bytes: int,
    environment: Mapping[str, str] | None,
    on_progress: Progress,
) -> Made:
    networks = [n for n in _recognised(location.directory).networks if _is_onnx(n)]
    if not networks:
        raise ModelError(
            "does_not_pay", f"{location.name} is in a format that is mapped without preparing it"
        )
    runtime = Runtime()
    done = written = 0
    made = set[str]()
    for network in networks:
        on_progress("graph", done // _STEP_BYTES)
        inside = network.relative_to(location.directory)
        target = partial / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        data = f"{target.name}.data"
        entries = {
            "session.save_external_prepacked_constant_initializers": "1",
            "session.optimized_model_external_initializers_file_name": data,
            "session.optimized_model_external_initializers_min_size_in_bytes": (
                _LEAST_EXTERNAL_BYTES
            ),
        }
        runtime.write_optimised(network, target, entries)
        made |= {str(inside), str(inside.with_name(data))}
        done += disk_bytes(network)
        written += disk_bytes(target)
        if 0 < most_bytes < written:
            raise ModelError(
                "result_too_large", f"the prepared networks are larger than {most_bytes} bytes"
            )
    MAKER.link(location.directory, partial, frozenset(made))
    on_progress("check", done // _STEP_BYTES)
    answers = must_answer_alike(location, partial, environment)
    on_progress("place", done // _STEP_BYTES)
    counts = {
        "bytes of memory before": answers.before.anonymous,
        "bytes after": answers.after.anonymous,
        "ms to load before": round(1000 * answers.before.load_s),
        "ms after": round(1000 * answers.after.load_s),
    }
    peak = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return Made(counts, 1024 * peak)


def _recognised(model: Path) -> Layout:
    try:
        return recognise(model)
    except NotRecognised as error:
        raise ModelError("model_invalid", f"{model}: {error}") from error


def _is_onnx(network: Path) -> bool:
    return network.suffix == ".onnx"


@functools.cache
def _runtime_digest() -> str:
    try:
        file = library_file()
    except ModelError:
        return "none"
    with file.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()[:12]


@functools.cache
def _processor_digest() -> str:
    return hashlib.sha256(weights_layout().encode()).hexdigest()[:12]
