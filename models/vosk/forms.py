"""Forms of a Vosk model: prepared or as published, with or without the SIMD library, with or
without its rescoring. Decided from names, sizes and first bytes."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from models.contract import PROFILES, Abilities, ModelError, ModelLocation
from models.engine import EngineSettings, Form, Requirement
from models.prediction import Prediction
from models.processor import processor_flags
from models.vosk import mapping
from models.vosk.beam import Width, widths
from models.vosk.blas import AUTO, CORETYPES, UnsupportedProcessor, blas_environment
from models.vosk.building import compiler_is_here
from models.vosk.layout import composes_its_graph, rescoring_folders
from models.vosk.prediction import if_prepared, predict
from models.vosk.prepared import PreparedModel, compiled_graph, find_prepared
from models.vosk.simd import SAME_AS, SIMD, SimdLibrary, choose_variant, must_run

RESCORING_COST = "its errors may be about a twentieth more"
"""Published for a big model without its recurrent network (vosk-api #779: 5 % relative)."""

_BUILDING_BYTES = 256 * 1024 * 1024
"""Bytes that the compiler of the SIMD library may need, with a margin (150 MB were measured)."""

_PREFETCH_RESERVE_BYTES = 512 * 1024 * 1024
"""Bytes that must still be available after a graph was read in advance."""

_GRAPHS = {
    "lazy": "composed while decoding (preparing the model would make it several times faster)",
    "static": "copied into memory (preparing the model would have it mapped)",
    "mapped": "mapped",
}


class VoskValues(msgspec.Struct, frozen=True):
    """Settings of `[engines.vosk]`, as `modelserver.settings` describes and checks them."""

    simd: Literal["auto", "on", "off"] = "auto"
    rescoring: Literal["auto", "on", "off"] = "auto"
    blas: str = AUTO
    prefetch: Literal["auto", "always", "never"] = "auto"

    @classmethod
    def of(cls, settings: EngineSettings) -> "VoskValues":
        """Return the values of these settings; defaults for those that are not set."""
        return msgspec.convert(dict(settings.values), cls)

    def wants_simd(self, prediction: Prediction) -> bool:
        """Return whether the SIMD library is worth loading, or is set explicitly.

        If the graph is composed while decoding, the network is a tenth of the work.
        """
        return self.simd == "on" or (self.simd == "auto" and prediction.graph != "lazy")

    def blas_environment(self, prediction: Prediction, *, simd: bool) -> Mapping[str, str]:
        """Return the variables that choose OpenBLAS's kernel: by default the one with the same
        results as the SIMD library, so that a model gives the same texts before and after it is
        prepared, on every processor. Raises `UnsupportedProcessor`."""
        flags = processor_flags()
        for_ours = simd or (self.simd == "auto" and not self.wants_simd(prediction))
        same = self.blas == AUTO and for_ours and CORETYPES[SAME_AS] <= flags
        return blas_environment(SAME_AS if same else self.blas, flags)


def forms(location: ModelLocation, settings: EngineSettings) -> list[Form]:
    """Return the ways to load the model, best first. Raises `ModelError`."""
    values = VoskValues.of(settings)
    with _as_model_errors(location):
        lookup = find_prepared(location, settings.store)
    prepared, problems = lookup.prepared, lookup.problems
    if prepared is not None and (why := mapping.mapping_problem()) is not None:
        problems += (f"{prepared.directory} is not used: {why}",)
        prepared = None
    originals: tuple[PreparedModel | None, ...] = (None,)
    if prepared is not None:
        # A prepared model that is requested by its own directory has no other form.
        own = prepared.directory == location.directory
        originals = (prepared,) if own else (prepared, None)
    found: list[Form] = []
    with _as_model_errors(location):
        for left_out in _left_out(location.directory, values):
            for made in originals:
                files = made.made if made else {}
                prediction = predict(location.directory, files, rescoring=not left_out)
                way = _Way(location, prediction, left_out, made is not None, made)
                found += way.forms(values, settings, problems)
    return found


def forms_once_prepared(
    location: ModelLocation, settings: EngineSettings, graph_bytes: int
) -> list[Form]:
    """Return the ways to load the model with a compiled graph of about `graph_bytes` bytes, best
    first. Raises `ModelError`."""
    values = VoskValues.of(settings)
    found: list[Form] = []
    with _as_model_errors(location):
        for left_out in _left_out(location.directory, values):
            published = predict(location.directory, rescoring=not left_out)
            prediction = if_prepared(published, graph_bytes)
            found += _Way(location, prediction, left_out, True).forms(values, settings)
    return found


@contextlib.contextmanager
def _as_model_errors(location: ModelLocation) -> Iterator[None]:
    """Translate errors of unreadable files, and of settings that the processor cannot run, into
    `ModelError`."""
    try:
        yield
    except OSError as error:
        where = error.filename or location.directory
        raise ModelError("model_unreadable", f"{where}: {error.strerror}") from error
    except UnsupportedProcessor as error:
        raise ModelError("processor_unsupported", str(error)) from error


def _left_out(directory: Path, values: VoskValues) -> list[tuple[str, ...]]:
    """Return the folders that are not loaded, for each way to load the model."""
    folders = tuple(rescoring_folders(directory))
    if values.rescoring == "off" or not folders:
        return [folders]
    return [(), folders] if values.rescoring == "auto" else [()]


@dataclass(frozen=True, slots=True)
class _Way:
    """Selection of a model's files: with and without the SIMD library, it has two forms."""

    location: ModelLocation
    prediction: Prediction
    left_out: tuple[str, ...]
    is_prepared: bool
    prepared: PreparedModel | None = None
    """Prepared model; None: it is not prepared, or not yet."""

    def forms(
        self, values: VoskValues, settings: EngineSettings, problems: tuple[str, ...] = ()
    ) -> list[Form]:
        """Return its forms, best first. Raises `UnsupportedProcessor`."""
        files, prepared = self.prepared.made if self.prepared else {}, self.prepared
        trimmed = bool(self.left_out) and values.rescoring == "auto"
        base = "prepared" if self.is_prepared else "published"
        name = f"{base}-trimmed" if trimmed else base
        profiles = widths(self.location.directory)
        without = Form(
            name=name,
            location=self.location,
            prediction=self.prediction,
            abilities=self._abilities(),
            load={
                "form": name,
                "made": {name: str(file) for name, file in files.items()},
                "left_out": list(self.left_out),
                "prefetch": prepared is not None and _prefetch(values, settings, prepared),
            },
            environment=values.blas_environment(self.prediction, simd=False),
            # A lazily composed graph becomes large and is walked all the time; beside a mapped
            # graph the heap is small.
            huge_pages=not self.is_prepared,
            prepared=prepared.directory if prepared else None,
            details={
                "graph": self.prediction.graph,
                "left_out": list(self.left_out),
                "profiles": {name: dataclasses.asdict(width) for name, width in profiles.items()},
            },
            notes=(
                f"graph: {_GRAPHS[self.prediction.graph]}",
                f"profiles, of one model in memory: {_in_words(profiles)}",
            ),
            problems=problems,
            consequence=RESCORING_COST if trimmed else "",
        )
        if not values.wants_simd(self.prediction):
            return [without]
        variant = choose_variant(processor_flags(), values.blas)
        best = dataclasses.replace(
            without,
            name=f"{name}-simd",
            load={**without.load, "form": f"{name}-simd", "simd": variant},
            environment=values.blas_environment(self.prediction, simd=True),
            requirement=simd_requirement(settings.store, values),
        )
        return [best] if values.simd == "on" else [best, without]

    def _abilities(self) -> Abilities:
        only = not self.is_prepared and composes_its_graph(self.location.directory)
        return Abilities(phrases="only" if only else "no", profiles=PROFILES)


def simd_requirement(store: Path, values: VoskValues) -> Requirement:
    """Return the SIMD library as a requirement of a form."""

    def find() -> Mapping[str, str] | None:
        library = SIMD.find(store)
        variant = choose_variant(processor_flags(), values.blas)
        if library is None or variant is None:
            return None
        return SimdLibrary(library, variant).environment

    def problem() -> str | None:
        try:
            must_run(processor_flags(), values.blas)
        except UnsupportedProcessor as error:
            return str(error)
        if not compiler_is_here() and SIMD.find(store) is None:
            return f"there is no compiler ({SIMD.needs})"
        return None

    return Requirement(
        name="SIMD library",
        command=("models.vosk.simd.build", str(store)),
        find=find,
        consequence="recognition is slower, since OpenBLAS computes the products of the network",
        problem=problem,
        needs_memory=_BUILDING_BYTES,
        setting="engines.vosk.simd = on" if values.simd == "on" else "",
    )


def _prefetch(values: VoskValues, settings: EngineSettings, prepared: PreparedModel) -> bool:
    if values.prefetch != "auto":
        return values.prefetch == "always"
    size = compiled_graph(prepared.directory).stat().st_size
    return size + _PREFETCH_RESERVE_BYTES < settings.available


def _in_words(profiles: Mapping[str, Width]) -> str:
    return ", ".join(
        f"{profile} (beam {width.beam:g}, {width.max_active} states)"
        for profile, width in profiles.items()
    )
