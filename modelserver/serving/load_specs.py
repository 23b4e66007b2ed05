"""From settings to what a pool loads: the model that was chosen, and how to load it."""

import os

import structlog

import models
from models.processor import processor_flags
from models.vosk.blas import AUTO, CORETYPES, UnsupportedProcessor, blas_environment
from models.vosk.prepared import PreparedModel, Starting, compiled_graph, find_prepared
from models.vosk.simd import SAME_AS, SIMD, SimdLibrary, choose_variant
from modelserver.serving.learned import Lessons
from modelserver.serving.selection import (
    RESCORING_COST,
    Choice,
    candidate,
    choose_model,
    find_wanted,
    worker_count,
)
from modelserver.settings import Settings
from modelserver.settings.labels import first_model
from modelserver.speech.messages import speech_target
from supervisor import (
    Allocator,
    AllocatorMissing,
    Headroom,
    Target,
    TargetUnavailable,
    available_memory,
    choose_allocator,
    find_jemalloc,
    in_units,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")

_PREFETCH_RESERVE_BYTES = 512 * 1024 * 1024
"""A graph is read through beforehand only if this much would still be available after it."""


def find_model(settings: Settings) -> models.ModelLocation:
    """The first model that the settings name and that is there, whether or not it fits; of
    several models, of the first.

    Raises `models.ModelError`.
    """
    settings = first_model(settings)
    *others, last = settings.model
    for wanted in others:
        try:
            return find_wanted(settings, wanted)
        except models.ModelError:
            continue
    return find_wanted(settings, last)


def find_choice(
    settings: Settings, headroom: Headroom, lessons: Lessons, *, plain: bool = False
) -> Choice:
    """What to load now: what fits into `headroom`, prepared if it is and not wanted `plain`. May
    read disks. Raises `TargetUnavailable`."""
    choice = choose_model(settings, headroom, lessons, plain=plain)
    _tell(choice, settings, headroom)
    return choice


def wants_simd(settings: Settings, choice: Choice) -> bool:
    """Return whether the SIMD library pays for it, or is asked for by name.

    Where the graph is composed while decoding, the network is a tenth of the work.
    """
    return settings.simd == "on" or (settings.simd == "auto" and choice.prediction.graph != "lazy")


def target_of(settings: Settings, choice: Choice, simd: SimdLibrary | None) -> Target:
    """How to load it, with the SIMD library if there is one. May read disks. Raises
    `TargetUnavailable`."""
    try:
        environment = blas_environment(_blas(settings, choice, simd), processor_flags())
    except UnsupportedProcessor as error:
        raise TargetUnavailable(str(error)) from error
    if simd is not None:
        environment |= simd.environment
    prepared = choice.prepared
    return speech_target(
        choice.location,
        prepared.made if prepared else {},
        left_out=choice.left_out,
        warmup=settings.debug.warmup,
        prefetch=prepared is not None and _prefetch(settings, prepared),
        environment=environment,
        simd=simd.variant if simd else None,
        profile=settings.profile,
        text_steps=settings.text.steps,
        needs=choice.needs(worker_count(settings)),
    )


def _blas(settings: Settings, choice: Choice, simd: SimdLibrary | None) -> str:
    """OpenBLAS's kernel: if that is left to us, the one that ours give the same results as, so that
    a model says the same before it is prepared and after, on every processor."""
    for_ours = simd is not None or (settings.simd == "auto" and not wants_simd(settings, choice))
    if settings.debug.blas == AUTO and for_ours and CORETYPES[SAME_AS] <= processor_flags():
        return SAME_AS
    return settings.debug.blas


def starting(settings: Settings, location: models.ModelLocation) -> Starting:
    """How a server would start the process that loads the model once it is prepared: for the
    comparison with its original."""
    variant = choose_variant(processor_flags(), settings.debug.blas)
    library = SIMD.find(settings.prepared_dir) if settings.simd != "off" else None
    simd = SimdLibrary(library, variant) if library is not None and variant is not None else None
    try:
        choice = candidate(location, settings.prepared_dir, settings.rescoring, plain=True)
        environment = blas_environment(_blas(settings, choice, simd), processor_flags())
        allocator = Allocator(settings.debug.allocator)
        chosen = choose_allocator(allocator, find_jemalloc(), huge_pages=False)
    except (UnsupportedProcessor, AllocatorMissing) as error:
        raise models.ModelError("cannot_afford", str(error)) from error
    layers = (simd.environment if simd else {}, chosen.variables, os.environ)
    preload = ":".join(layer["LD_PRELOAD"] for layer in layers if layer.get("LD_PRELOAD"))
    environment = {**os.environ, **chosen.variables, **environment, "LD_PRELOAD": preload}
    return Starting(environment, simd.variant if simd else None)


def is_prepared(settings: Settings, location: models.ModelLocation) -> bool:
    """The model has a prepared form."""
    return find_prepared(location, settings.prepared_dir).prepared is not None


def _tell(choice: Choice, settings: Settings, headroom: Headroom) -> None:
    """Log what an operator should know of the choice."""
    for problem in choice.problems:
        log.warning("prepared_model.rejected", problem=problem)
    for reason in choice.passed_over:
        log.warning("model.skipped", reason=reason, served=choice.location.name)
    if choice.left_out and settings.rescoring == "auto":
        log.warning(
            "model.trimmed",
            model=choice.location.name,
            left_out=list(choice.left_out),
            reason=f"there is room for {in_units(headroom.most)} ({headroom.limit})",
            consequence=RESCORING_COST,
        )
    workers = worker_count(settings)
    log.info(
        "model.chosen",
        model=choice.location.name,
        graph=choice.prediction.graph,
        predicted_bytes=choice.prediction.model,
        growth_bytes=choice.prediction.growth,
        workers=workers,
        room_bytes=headroom.now,
    )


def _prefetch(settings: Settings, prepared: PreparedModel) -> bool:
    if settings.debug.prefetch != "auto":
        return settings.debug.prefetch == "always"
    return (
        compiled_graph(prepared.directory).stat().st_size + _PREFETCH_RESERVE_BYTES
        < available_memory()
    )
