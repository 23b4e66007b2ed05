"""List of models: installed ones, ones that can be fetched, whether they fit on this machine now,
and the recommendation for a language."""

import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

import models as model_package
from models.fetching.sources import has_source
from modelserver.serving.selection import (
    LEAST_GROWTH,
    Choice,
    candidate,
    choose_model,
    worker_count,
)
from modelserver.settings import Settings
from supervisor import Headroom, TargetUnavailable, counted, in_units

_PROCESSORS = ("x86_64", "aarch64")
"""Processors for which packages of all engines are published."""


class ModelRow(msgspec.Struct, frozen=True):
    """Model in a list, in words. `chosen`: whether it would be served; `installed`: it need not be
    fetched; `problems`: its defects; `needs`: bytes for it and its workers, 0 if unknown;
    `missing`: software that has to be installed to serve it, if any; `speed`: seconds of one
    processor for a second of speech, 0 if it was not measured."""

    name: str
    language: str
    errors: str
    memory: str
    fits: str
    state: str
    licence: str
    installed: bool
    chosen: bool = False
    problems: tuple[str, ...] = ()
    needs: int = 0
    languages: tuple[str, ...] = ()
    engine: str = "vosk"
    missing: str | None = None
    streaming: bool = True
    speed: float = 0.0
    error_rates: tuple[model_package.ErrorRate, ...] = ()
    recommended: bool = False


class Overview(msgspec.Struct, frozen=True):
    """List of models. `choice`: the one that would be served; `why_none`: the reason if there is
    none. `recommendation`: for the requested language."""

    rows: list[ModelRow]
    choice: Choice | None
    why_none: str
    recommendation: model_package.Recommendation | None = None


def overview(
    settings: Settings, headroom: Headroom, *, installed: bool = False, language: str = ""
) -> Overview:
    """List all models, or those that are `installed`, or those of a `language` (BCP 47), the
    recommended one first. Reads disks."""
    served, why = _served(settings, headroom)
    rows = list(_installed(settings, headroom, served))
    if not installed:
        names = {row.name for row in rows}
        known = [entry for entry in model_package.catalog() if entry.name not in names]
        known.sort(key=lambda entry: (len(entry.tags) > 1, entry.language, entry.memory_bytes))
        rows += [_known(entry, headroom, worker_count(settings)) for entry in known]
    if not language:
        return Overview(rows, served, why)
    rows = [row for row in rows if _speaks(row, language)]
    best = model_package.recommend(_candidates(rows, settings, headroom, language))
    rows = [_for_language(row, language, best) for row in rows]
    rows.sort(key=lambda row: _order(row, headroom))
    return Overview(rows, served, why, best)


def recommended(
    settings: Settings, headroom: Headroom, language: str
) -> model_package.Recommendation | None:
    """Return the model to use for a language (BCP 47) on this machine, installed or not."""
    return overview(settings, headroom, language=language).recommendation


def _order(row: ModelRow, headroom: Headroom) -> tuple[bool, bool, bool, bool, int]:
    """Sort the models of a language: what can be used first, what was measured before the rest."""
    fits = 0 < row.needs <= headroom.most
    return not row.recommended, not row.installed, not fits, not row.error_rates, row.needs


def _speaks(row: ModelRow, language: str) -> bool:
    return any(model_package.same_language(tag, language) for tag in row.languages)


def _candidates(
    rows: Sequence[ModelRow], settings: Settings, headroom: Headroom, language: str
) -> list[model_package.Candidate]:
    candidates = []
    for row in rows:
        entry = model_package.catalog_entry(row.name)
        candidates.append(
            model_package.Candidate(
                row.name,
                entry.rates_for(language) if entry else (),
                row.needs,
                0 < row.needs <= headroom.most,
                _obtainable(row, settings),
                preferred=entry is not None and entry.recommended_for(language),
            )
        )
    return candidates


def _obtainable(row: ModelRow, settings: Settings) -> bool:
    """Return whether the model is here or a server of the settings may have it, and its engine can
    be installed."""
    engine = row.missing is None or platform.machine() in _PROCESSORS
    return engine and (row.installed or has_source(row.name, settings.models_urls))


def _for_language(
    row: ModelRow, language: str, best: model_package.Recommendation | None
) -> ModelRow:
    """Return the row with what is published of the model for the language."""
    entry = model_package.catalog_entry(row.name)
    rates = entry.rates_for(language) if entry else ()
    return msgspec.structs.replace(
        row,
        errors=f"{rates[0].rate:g} %" if rates else "",
        error_rates=rates,
        recommended=best is not None and best.name == row.name,
    )


def _served(settings: Settings, headroom: Headroom) -> tuple[Choice | None, str]:
    try:
        return choose_model(settings, headroom), ""
    except TargetUnavailable as error:
        return None, str(error)


def _installed(settings: Settings, headroom: Headroom, served: Choice | None) -> Iterator[ModelRow]:
    for location in model_package.installed_models(settings.models_dir):
        entry = model_package.catalog_entry(location.name)
        try:
            choice = candidate(location, settings)
        except model_package.ModelError as error:
            yield _unusable(location, entry, error)
            continue
        chosen = served is not None and served.location.directory == location.directory
        state = "prepared" if choice.form.prepared else "installed"
        yield ModelRow(
            location.name,
            entry.language if entry else location.language,
            _errors(entry),
            in_units(choice.prediction.model),
            _fits(choice.needs, headroom, worker_count(settings)),
            state,
            entry.licence if entry else "",
            installed=True,
            chosen=chosen,
            problems=choice.problems,
            needs=choice.needs(worker_count(settings)),
            **_facts(entry) | _facts_of(choice, entry),
        )


def _unusable(
    location: model_package.ModelLocation,
    entry: model_package.CatalogEntry | None,
    error: model_package.ModelError,
) -> ModelRow:
    """Return the row of an installed model that cannot be served: its files are damaged, or its
    engine is not installed."""
    state = error.message
    if error.code == "engine_missing":
        state = f"installed, needs {model_package.engine_of(location.directory).name}"
    return ModelRow(
        location.name,
        entry.language if entry else location.language,
        _errors(entry),
        "",
        "",
        state,
        entry.licence if entry else "",
        installed=True,
        **_facts(entry),
    )


def _known(entry: model_package.CatalogEntry, headroom: Headroom, workers: int) -> ModelRow:
    def needs(some: int) -> int:
        return entry.memory_bytes + some * max(LEAST_GROWTH, entry.growth_bytes)

    known = entry.memory_bytes > 0
    size = f"{'' if entry.size else '~'}{in_units(entry.download_bytes)} "
    return ModelRow(
        entry.name,
        entry.language,
        _errors(entry),
        f"{'' if entry.memory else '~'}{in_units(entry.memory_bytes)}" if known else "",
        _fits(needs, headroom, workers, "~") if known else "",
        f"{size if entry.download_bytes else ''}to fetch{_needing(entry)}",
        entry.licence,
        installed=False,
        needs=needs(workers) if known else 0,
        **_facts(entry),
    )


def _needing(entry: model_package.CatalogEntry) -> str:
    """Say that the engine of a model is not installed, after a state."""
    there = model_package.engine_named(entry.engine).missing() is None
    return "" if there else f", needs {entry.engine}"


def _facts(entry: model_package.CatalogEntry | None) -> dict[str, Any]:
    """Return what the catalogue says of a model, as fields of its row."""
    if entry is None:
        return {}
    return {
        "languages": entry.tags,
        "engine": entry.engine,
        "missing": model_package.engine_named(entry.engine).missing(),
        "streaming": entry.streaming,
        "speed": entry.speed,
        "error_rates": entry.rates,
    }


def _facts_of(choice: Choice, entry: model_package.CatalogEntry | None) -> dict[str, Any]:
    """Return what the files of an installed model say, as fields of its row."""
    abilities = choice.form.abilities
    languages = abilities.languages or (choice.location.language,)
    return {
        "languages": entry.tags if entry is not None else languages,
        "engine": choice.engine,
        "missing": model_package.engine_named(choice.engine).missing(),
        "streaming": abilities.streaming,
    }


def _errors(entry: model_package.CatalogEntry | None) -> str:
    if entry is None or not entry.rates:
        return ""
    shown = entry.rates[0]
    return f"{shown.rate:g} %" + (f" ({shown.language})" if len(entry.tags) > 1 else "")


def _fits(needs: Callable[[int], int], headroom: Headroom, workers: int, about: str = "") -> str:
    """Return whether the model fits, in words; `about`: "~" if its needs are an estimate."""
    for some in (workers, *range(workers - 1, 0, -1)):
        if (left := headroom.now - needs(some)) >= 0:
            if some == workers:
                return f"yes, leaves {about}{in_units(left)}"
            return f"with {about}{some} of {counted(workers, 'worker')}"
    return f"no, needs {about}{in_units(needs(1))}"


class PunctuationRow(msgspec.Struct, frozen=True):
    """A punctuation model in the list. `memory`: in words."""

    name: str
    languages: str
    memory: str
    state: str
    installed: bool


def punctuation_rows(
    settings: Settings, *, installed: bool = False, language: str = ""
) -> list[PunctuationRow]:
    """List the punctuation models, or those that are `installed`, or those of a `language` (BCP
    47). Reads disks."""
    there = model_package.installed_punctuation(settings.models_dir)
    rows = [
        PunctuationRow(
            model.name,
            ", ".join(model.languages),
            in_units(model.part.private),
            "installed",
            installed=True,
        )
        for model in there
        if not language or model.knows(language)
    ]
    names = {model.name for model in there}
    for entry in model_package.punctuation_catalog():
        if installed or entry.name in names or (language and not entry.speaks(language)):
            continue
        size = f"~{in_units(entry.download_bytes)} to fetch" if entry.download_bytes else ""
        rows.append(
            PunctuationRow(
                entry.alias or entry.name,
                ", ".join(entry.languages),
                f"~{in_units(entry.memory_bytes)}",
                size,
                installed=False,
            )
        )
    return rows
