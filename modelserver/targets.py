"""From settings to what a pool loads: the model, its prepared form, and how to load it."""

import functools

import structlog

import models
from models.blas import KernelRefused, blas_environment, processor_flags
from models.prepared import PreparedModel, find_prepared
from modelserver.settings import Settings
from modelserver.speech import speech_target
from supervisor import Target, TargetUnavailable, available_memory

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")

_PREFETCH_RESERVE_BYTES = 512 * 1024 * 1024
"""A graph is read through beforehand only if this much would still be available after it."""


def find_model(settings: Settings) -> models.ModelLocation:
    """The model that the settings name. Raises `models.ModelError`."""
    return models.find_model(settings.model, settings.models_dir, settings.language or None)


def find_target(settings: Settings) -> Target:
    """What to load now, prepared if it is. May read disks. Raises `TargetUnavailable`."""
    try:
        location = find_model(settings)
        environment = blas_environment(settings.blas, _flags())
    except (models.ModelError, KernelRefused) as error:
        raise TargetUnavailable(str(error)) from error
    lookup = find_prepared(location, settings.prepared_dir)
    for problem in lookup.problems:
        log.warning("prepared_model.not_used", problem=problem)
    prepared = lookup.prepared
    return speech_target(
        location,
        prepared.made if prepared else {},
        warmup=settings.warmup,
        prefetch=prepared is not None and _prefetch(settings, prepared),
        environment=environment,
    )


def is_prepared(settings: Settings) -> bool:
    """The model that would be served has a prepared form. Raises `models.ModelError`."""
    return find_prepared(find_model(settings), settings.prepared_dir).prepared is not None


def _prefetch(settings: Settings, prepared: PreparedModel) -> bool:
    if settings.prefetch != "auto":
        return settings.prefetch == "always"
    return prepared.graph.stat().st_size + _PREFETCH_RESERVE_BYTES < available_memory()


@functools.cache
def _flags() -> frozenset[str]:
    return processor_flags()
