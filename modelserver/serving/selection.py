"""Selection of the model that is loaded, and of its form: the first of those asked for that fits
into the room there is. Decided from files' names and sizes, before anything is loaded."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

import models
from modelserver.serving.learned import Lessons
from modelserver.serving.punctuation import (
    NO_PUNCTUATION,
    Punctuation,
    punctuation_for,
    with_punctuation,
)
from modelserver.serving.text_step_memory import with_text_steps
from modelserver.settings import Settings
from supervisor import Headroom, TargetUnavailable, available_memory, counted, in_units, usable_cpus

LEAST_GROWTH = 32 << 20
"""Least bytes of growth that a worker can work with, if its model would let it grow by more."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A model and the form in which it is loaded. `passed_over`: why those before it in the list
    are not served; `problems`: why a prepared form is not used; `missing`: why what a better form
    requires is not used; `punctuation`: the model of its text step, whose memory the prediction
    has."""

    engine: str
    form: models.Form
    shown: int = 0
    """Least bytes that the model needs, as known from a load that was stopped because memory ran
    out; 0 if there was none."""
    takes_phrases: bool = False
    """True if a form of the model, perhaps another one, accepts phrases."""
    last: bool = False
    """True if there is no other form to load if this one fails."""
    passed_over: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    missing: str | None = None
    punctuation: Punctuation = NO_PUNCTUATION

    @property
    def location(self) -> models.ModelLocation:
        """Location of the model."""
        return self.form.location

    @property
    def prediction(self) -> models.Prediction:
        """Memory that it will take."""
        return self.form.prediction

    @property
    def model_bytes(self) -> int:
        """Bytes that are held once for all workers: as predicted, or as loading it has shown."""
        return max(self.prediction.model, self.shown)

    @property
    def loading_bytes(self) -> int:
        """Most bytes that the loading process holds, before there are workers."""
        return max(self.model_bytes, self.prediction.most_while_loading)

    @property
    def least_growth(self) -> int:
        """Least bytes of growth that each worker can work with."""
        return min(self.prediction.growth, LEAST_GROWTH)

    def serving_bytes(self, workers: int) -> int:
        """Return the least bytes of the loaded model and `workers` workers."""
        return self.model_bytes + workers * self.least_growth

    def needs(self, workers: int) -> int:
        """Return the least bytes of the model and `workers` workers, loading included."""
        return max(self.loading_bytes, self.serving_bytes(workers))

    def workers_within(self, headroom: int) -> int:
        """Return how many workers have what they would like to grow by."""
        return max(0, headroom - self.model_bytes) // self.prediction.growth


def engine_settings(settings: Settings, engine: models.Engine) -> models.EngineSettings:
    """Return what decides how models of this engine are loaded."""
    section = getattr(settings.engines, engine.name, None)
    return models.EngineSettings(
        settings.prepared_dir,
        settings.profile,
        {} if section is None else msgspec.structs.asdict(section),
        available_memory(),
    )


def worker_count(settings: Settings) -> int:
    """Return how many workers are set, or how many processors there are."""
    return settings.workers.count or usable_cpus()


def candidates(
    location: models.ModelLocation,
    settings: Settings,
    lessons: Lessons | None = None,
    unavailable: Mapping[str, str] | None = None,
    *,
    phrases: bool = False,
) -> list[Choice]:
    """Return the forms of an installed model that can be loaded, best first; with `phrases`, those
    that accept phrases. `unavailable`: requirements that cannot be met, with the reason. Reads
    directories and first bytes. Raises `models.ModelError`."""
    lessons, unavailable = lessons or Lessons(), unavailable or {}
    if (problem := lessons.unusable.get(location.directory)) is not None:
        raise models.ModelError("model_damaged", f"{location.directory} is not used: {problem}")
    engine = models.engine_of(location.directory)
    if (what := engine.missing()) is not None:
        raise models.ModelError("engine_missing", f"{location.name} cannot be loaded: {what}")
    forms = engine.forms(location, engine_settings(settings, engine))
    takes_phrases = any(form.abilities.phrases != "no" for form in forms)
    if phrases and takes_phrases:
        forms = [form for form in forms if form.abilities.phrases != "no"]
    punctuation = punctuation_for(settings, location, forms[0].abilities)
    forms = [
        with_text_steps(with_punctuation(form, punctuation), settings.text.steps) for form in forms
    ]
    found: list[Choice] = []
    problems: dict[str, None] = {}
    missing: dict[str, None] = {}
    for form in forms:
        if form.prepared is not None and (why := lessons.unusable.get(form.prepared)) is not None:
            problems[f"{form.prepared} is not used: {why}"] = None
            continue
        requirement = form.requirement
        why = unavailable.get(requirement.name) if requirement is not None else None
        if (why := why or lessons.failed.get(form.key)) is None:
            found.append(
                Choice(
                    engine.name,
                    _with_profile(form, settings.profile),
                    lessons.needs_of(form),
                    takes_phrases,
                    problems=(*form.problems, *problems),
                    missing=None if requirement else next(iter(missing), None),
                    punctuation=punctuation,
                )
            )
        elif requirement is not None:
            insists = f"{requirement.setting}: " if requirement.setting else ""
            missing[f"{insists}the {requirement.name} is not used: {why}"] = None
        else:
            problems[f"{form.prepared or form.name} is not used: {why}"] = None
    if not found:
        why = "; ".join((*missing, *problems))
        raise models.ModelError("form_missing", f"{location.name} cannot be loaded: {why}")
    return [*found[:-1], dataclasses.replace(found[-1], last=True)]


def candidate(location: models.ModelLocation, settings: Settings) -> Choice:
    """Return the best form of an installed model. Raises `models.ModelError`."""
    return candidates(location, settings)[0]


def find_wanted(settings: Settings, wanted: str) -> models.ModelLocation:
    """Return the installed model that one of `settings.model` names. Raises `models.ModelError`."""
    return models.find_model(wanted, settings.models_dir, settings.language or None)


def choose_model(
    settings: Settings,
    headroom: Headroom,
    lessons: Lessons | None = None,
    unavailable: Mapping[str, str] | None = None,
    *,
    phrases: bool = False,
) -> Choice:
    """Return the first model of `settings.model` that fits, in its best form that does. Raises
    `TargetUnavailable`, with numbers and with what would fit instead. `phrases`: in a form that
    takes phrases."""
    lessons = lessons or Lessons()
    workers = worker_count(settings)
    passed_over: list[str] = []
    there = False
    for wanted in settings.model:
        try:
            location = find_wanted(settings, wanted)
            forms = candidates(location, settings, lessons, unavailable, phrases=phrases)
        except models.ModelError as error:
            passed_over.append(error.message)
            continue
        there = True
        if (choice := _first_that_fits(forms, workers, headroom)) is not None:
            return dataclasses.replace(choice, passed_over=tuple(passed_over))
        least = min(forms, key=lambda form: form.needs(workers))
        better = "" if phrases else _prepared(location, settings, headroom)
        passed_over.append(does_not_fit(least, workers, headroom) + better)
    # Where none is there, what is installed has been said already.
    instead = what_would_fit(settings, headroom, lessons) if there and not phrases else ""
    raise TargetUnavailable("; ".join(passed_over) + instead)


def does_not_fit(choice: Choice, workers: int, headroom: Headroom) -> str:
    """Return the sentence that says so, with the bytes that it needs to serve; where only loading
    it takes more than there is, with those."""
    model, served = in_units(choice.model_bytes), choice.serving_bytes(workers)
    if choice.shown > choice.prediction.model:
        model = f"at least {model}, as loading it has shown,"
    needs = (
        f"{in_units(served)} ({model} for the model, the rest for {counted(workers, 'worker')})"
        if not served <= headroom.most < choice.loading_bytes
        else f"{in_units(choice.loading_bytes)} while it loads ({in_units(served)} after that)"
    )
    return (
        f"{choice.location.name} does not fit: it needs {needs}, and there is room for "
        f"{in_units(headroom.most)} ({headroom.limit})"
    )


def _prepared(location: models.ModelLocation, settings: Settings, headroom: Headroom) -> str:
    """Return what preparing the model would change, in words."""
    engine = models.engine_of(location.directory)
    improvement = engine.improvement(location, engine_settings(settings, engine))
    if improvement is None:
        return ""
    workers = worker_count(settings)
    punctuation = punctuation_for(settings, location, improvement.forms[0].abilities)
    better = [
        Choice(engine.name, _with_profile(with_punctuation(form, punctuation), settings.profile))
        for form in improvement.forms
    ]
    if (choice := _first_that_fits(better, workers, headroom)) is None:
        return ""
    return (
        f"; prepared, it would need {in_units(choice.needs(workers))} (`modelserver models "
        "prepare`, or `models export` on a machine that has the memory to prepare it)"
    )


def what_would_fit(settings: Settings, headroom: Headroom, lessons: Lessons) -> str:
    """Return what is installed and fits, or else what could be fetched; the start of it is "; "."""
    workers = worker_count(settings)
    fitting = []
    for location in models.installed_models(settings.models_dir):
        try:
            forms = candidates(location, settings, lessons)
        except models.ModelError:
            continue
        if (found := _first_that_fits(forms, workers, headroom)) is not None:
            fitting.append(f"{location.name} ({in_units(found.needs(workers))})")
    if fitting:
        return f"; what would fit: {', '.join(fitting)}"
    entries = [entry for entry in models.catalog() if 0 < entry.memory_bytes < headroom.most]
    if entries:
        some = ", ".join(f"{e.name} (about {in_units(e.memory_bytes)})" for e in entries[:2])
        return f"; what would fit, and can be fetched with `modelserver models pull`: {some}"
    return "; nothing that is installed or known would fit"


def _with_profile(form: models.Form, profile: str) -> models.Form:
    """Return it with the growth of the profile that requests have unless they say."""
    if profile != "accurate":
        return form
    prediction = form.prediction
    grown = dataclasses.replace(prediction, growth=prediction.growth_accurate)
    return dataclasses.replace(form, prediction=grown)


def _first_that_fits(forms: list[Choice], workers: int, headroom: Headroom) -> Choice | None:
    return next((form for form in forms if form.needs(workers) <= headroom.most), None)
