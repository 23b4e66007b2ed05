"""Load specification of a pool, from the settings: the chosen model, and how to load it."""

import os
from collections.abc import Mapping

import structlog

import models
from modelserver.serving.selection import Choice, find_wanted, worker_count
from modelserver.settings import Settings
from modelserver.settings.labels import first_model
from modelserver.speech.messages import speech_target
from supervisor import (
    Allocator,
    AllocatorMissing,
    Headroom,
    RepeatLimit,
    Target,
    choose_allocator,
    find_jemalloc,
    in_units,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")


def find_model(settings: Settings) -> models.ModelLocation:
    """Return the first installed model that the settings name, whether or not it fits; with several
    models, for the first of them. Raises `models.ModelError`."""
    settings = first_model(settings)
    *others, last = settings.model
    for wanted in others:
        try:
            return find_wanted(settings, wanted)
        except models.ModelError:
            continue
    return find_wanted(settings, last)


def target_of(settings: Settings, choice: Choice, variables: Mapping[str, str]) -> Target:
    """Return how to load it, with the `variables` of what its form requires."""
    return speech_target(
        choice.engine,
        choice.form,
        variables,
        warmup=settings.debug.warmup,
        profile=settings.profile,
        text_steps=settings.text.steps,
        punctuation=choice.punctuation.to_use,
        needs=choice.needs(worker_count(settings)),
    )


def loading_environment(settings: Settings) -> Mapping[str, str]:
    """Return the variables with which a server starts a process that loads a model, without those
    of a form. Raises `models.ModelError`."""
    try:
        allocator = Allocator(settings.debug.allocator)
        chosen = choose_allocator(allocator, find_jemalloc(), huge_pages=False).variables
    except AllocatorMissing as error:
        raise models.ModelError("cannot_afford", str(error)) from error
    preload = ":".join(
        layer["LD_PRELOAD"] for layer in (chosen, os.environ) if layer.get("LD_PRELOAD")
    )
    return {**os.environ, **chosen, "LD_PRELOAD": preload}


def describe_choice(
    choice: Choice, settings: Settings, headroom: Headroom, repeats: RepeatLimit
) -> None:
    """Log what an operator should know of the choice."""
    for problem in choice.problems:
        if repeats.due(problem):
            log.warning("prepared_model.rejected", problem=problem)
    for reason in choice.passed_over:
        if repeats.due(reason):
            log.warning("model.skipped", reason=reason, served=choice.location.name)
    if choice.form.consequence and repeats.due(choice.form.consequence):
        log.warning(
            "model.trimmed",
            model=choice.location.name,
            form=choice.form.name,
            reason=f"there is room for {in_units(headroom.most)} ({headroom.limit})",
            consequence=choice.form.consequence,
        )
    workers = worker_count(settings)
    log.info(
        "model.chosen",
        model=choice.location.name,
        engine=choice.engine,
        form=choice.form.name,
        predicted_bytes=choice.prediction.model,
        growth_bytes=choice.prediction.growth,
        workers=workers,
        room_bytes=headroom.now,
    )
