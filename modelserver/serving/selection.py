"""Which model is loaded, and how much of it: the first of those asked for that fits into the room
there is. Decided from files' names and sizes, before anything is loaded."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import models
from models.vosk import mapping
from models.vosk.layout import rescoring_folders
from models.vosk.prediction import if_prepared
from models.vosk.prepared import PreparedModel, estimate_needs, find_prepared
from modelserver.serving.learned import Form, Lessons
from modelserver.settings import Settings
from supervisor import Headroom, TargetUnavailable, in_units, usable_cpus

LEAST_GROWTH = 32 << 20
"""Bytes: what a worker can work with at the least, if its model would let it grow by more."""

RESCORING_COST = "its errors may be about a twentieth more"
"""Published for a big model without its recurrent network (vosk-api #779: 5 % relative)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A model and how it is loaded. `left_out`: folders that are not; `passed_over`: why those
    before it in the list are not served; `problems`: why a prepared one is not used."""

    location: models.ModelLocation
    prepared: PreparedModel | None
    prediction: models.Prediction
    left_out: tuple[str, ...] = ()
    shown: int = 0
    """Bytes that a load of it has shown it to need at the least, if one was ended for that."""
    passed_over: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def form(self) -> Form:
        """Which files of the model are loaded."""
        made = self.prepared.directory if self.prepared else None
        return self.location.directory, made, self.left_out

    @property
    def model_bytes(self) -> int:
        """What is held once for all workers: as predicted, or as loading it has shown."""
        return max(self.prediction.model, self.shown)

    def needs(self, workers: int) -> int:
        """Bytes that it and so many workers take at the least."""
        return self.model_bytes + workers * min(self.prediction.growth, LEAST_GROWTH)

    def workers_within(self, headroom: int) -> int:
        """How many workers have what they would like to grow by."""
        return max(0, headroom - self.model_bytes) // self.prediction.growth


def worker_count(settings: Settings) -> int:
    """Return how many workers are set, or how many processors there are."""
    return settings.workers.count or usable_cpus()


def workers_text(count: int) -> str:
    """So many of them, for a sentence."""
    return f"{count} workers" if count != 1 else "1 worker"


def candidate(
    location: models.ModelLocation,
    store: Path,
    rescoring: str,
    unusable: Mapping[Path, str] | None = None,
    *,
    plain: bool = False,
) -> Choice:
    """The installed model, prepared if it is and not wanted `plain`, with its rescoring unless that
    is "off". `unusable`: prepared models that are not loaded, with the reason.

    Reads directories and first bytes. Raises `models.ModelError`.
    """
    unusable = unusable or {}
    if (problem := unusable.get(location.directory)) is not None:
        raise models.ModelError("model_damaged", f"{location.directory} is not used: {problem}")
    lookup = None if plain else find_prepared(location, store, unusable)
    prepared = lookup.prepared if lookup else None
    problems = lookup.problems if lookup else ()
    if prepared is not None and (why := mapping.mapping_problem()) is not None:
        problems += (f"{prepared.directory} is not used: {why}",)
        prepared = None
    made = prepared.made if prepared else {}
    left_out = tuple(rescoring_folders(location.directory)) if rescoring == "off" else ()
    try:
        prediction = models.predict(location.directory, made, rescoring=not left_out)
    except OSError as error:
        raise models.ModelError(
            "model_unreadable", f"{error.filename or location.directory}: {error.strerror}"
        ) from error
    return Choice(location, prepared, prediction, left_out, problems=problems)


def find_wanted(settings: Settings, wanted: str) -> models.ModelLocation:
    """The installed model that one of `settings.model` names. Raises `models.ModelError`."""
    return models.find_model(wanted, settings.models_dir, settings.language or None)


def choose_model(
    settings: Settings, headroom: Headroom, lessons: Lessons | None = None, *, plain: bool = False
) -> Choice:
    """The first model of `settings.model` that fits. Raises `TargetUnavailable`, with numbers and
    with what would fit instead. `plain`: as it was published, though it may be prepared."""
    lessons = lessons or Lessons()
    workers = worker_count(settings)
    passed_over: list[str] = []
    there = False
    for wanted in settings.model:
        try:
            location = find_wanted(settings, wanted)
            there = True
            ways = list(_ways(location, settings, lessons, plain=plain))
        except models.ModelError as error:
            passed_over.append(error.message)
            continue
        if (choice := _first_that_fits(ways, workers, headroom)) is not None:
            return dataclasses.replace(choice, passed_over=tuple(passed_over))
        better = "" if plain else _prepared(ways[-1], workers, headroom)
        passed_over.append(does_not_fit(ways[-1], workers, headroom) + better)
    # Where none is there, what is installed has been said already.
    instead = what_would_fit(settings, headroom, lessons) if there and not plain else ""
    raise TargetUnavailable("; ".join(passed_over) + instead)


def does_not_fit(choice: Choice, workers: int, headroom: Headroom) -> str:
    """The sentence."""
    model = in_units(choice.model_bytes)
    if choice.shown > choice.prediction.model:
        model = f"at least {model}, as loading it has shown,"
    return (
        f"{choice.location.name} does not fit: it needs {in_units(choice.needs(workers))} "
        f"({model} for the model, the rest for {workers_text(workers)}), and there is room for "
        f"{in_units(headroom.most)} ({headroom.limit})"
    )


def _prepared(choice: Choice, workers: int, headroom: Headroom) -> str:
    """Return what preparing the model would change, in words."""
    if choice.prediction.graph == "mapped":
        return ""
    graph = estimate_needs(choice.location.directory).mapped
    better = dataclasses.replace(choice, prediction=if_prepared(choice.prediction, graph))
    if better.needs(workers) > headroom.most:
        return ""
    return (
        f"; prepared, it would need {in_units(better.needs(workers))} (`modelserver models "
        "prepare`, or `models export` on a machine that has the memory to prepare it)"
    )


def what_would_fit(settings: Settings, headroom: Headroom, lessons: Lessons) -> str:
    """What is installed and fits, or else what could be fetched; the start of it is "; "."""
    workers = worker_count(settings)
    fitting = []
    for location in models.installed_models(settings.models_dir):
        try:
            ways = list(_ways(location, settings, lessons))
        except models.ModelError:
            continue
        if (found := _first_that_fits(ways, workers, headroom)) is not None:
            fitting.append(f"{location.name} ({in_units(found.needs(workers))})")
    if fitting:
        return f"; what would fit: {', '.join(fitting)}"
    entries = [entry for entry in models.catalog() if entry.memory_bytes < headroom.most]
    if entries:
        some = ", ".join(f"{e.name} (about {in_units(e.memory_bytes)})" for e in entries[:2])
        return f"; what would fit, and can be fetched with `modelserver models pull`: {some}"
    return "; nothing that is installed or known would fit"


def _ways(
    location: models.ModelLocation, settings: Settings, lessons: Lessons, *, plain: bool = False
) -> Iterator[Choice]:
    """As it is, and then without what only corrects, where that is left to us."""
    store, unusable = settings.prepared_dir, lessons.unusable
    first = candidate(location, store, settings.rescoring, unusable, plain=plain)
    yield _as_served(first, settings, lessons)
    if settings.rescoring == "auto" and first.prediction.rescoring:
        trimmed = candidate(location, store, "off", unusable, plain=plain)
        yield _as_served(trimmed, settings, lessons)


def _as_served(choice: Choice, settings: Settings, lessons: Lessons) -> Choice:
    """With what is known of its loads, and of the profile that requests have unless they say."""
    prediction = choice.prediction
    if settings.profile == "accurate":
        prediction = dataclasses.replace(prediction, growth=prediction.growth_accurate)
    return dataclasses.replace(choice, prediction=prediction, shown=lessons.needs_of(choice.form))


def _first_that_fits(ways: list[Choice], workers: int, headroom: Headroom) -> Choice | None:
    return next((way for way in ways if way.needs(workers) <= headroom.most), None)
