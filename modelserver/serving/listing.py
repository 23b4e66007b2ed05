"""Which models are installed, which could be fetched, and what of it fits on this machine now."""

from collections.abc import Callable, Iterator

import msgspec

import models as model_package
from modelserver.serving.selection import (
    LEAST_GROWTH,
    Choice,
    candidate,
    choose_model,
    worker_count,
    workers_text,
)
from modelserver.settings import Settings
from supervisor import Headroom, TargetUnavailable, in_units


class ModelRow(msgspec.Struct, frozen=True):
    """One model, in words. `chosen`: it is the one that would be served; `installed`: it need not
    be fetched; `problems`: what is wrong with it."""

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


class Overview(msgspec.Struct, frozen=True):
    """All of them. `choice`: the one that would be served; `why_none`: if there is none."""

    rows: list[ModelRow]
    choice: Choice | None
    why_none: str


def overview(settings: Settings, headroom: Headroom, *, installed: bool = False) -> Overview:
    """`installed`: those alone. Reads disks."""
    served, why = _served(settings, headroom)
    rows = list(_installed(settings, headroom, served))
    if not installed:
        names = {row.name for row in rows}
        known = [entry for entry in model_package.catalog() if entry.name not in names]
        known.sort(key=lambda entry: (entry.language, entry.memory_bytes))
        rows += [_known(entry, headroom, worker_count(settings)) for entry in known]
    return Overview(rows, served, why)


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
            yield ModelRow(
                location.name, location.language, "", "", "", error.message, "", installed=True
            )
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
        )


def _known(entry: model_package.CatalogEntry, headroom: Headroom, workers: int) -> ModelRow:
    def needs(some: int) -> int:
        return entry.memory_bytes + some * LEAST_GROWTH

    about = "" if entry.size else "~"
    return ModelRow(
        entry.name,
        entry.language,
        _errors(entry),
        f"{'' if entry.memory else '~'}{in_units(entry.memory_bytes)}",
        _fits(needs, headroom, workers, "~"),
        f"{about}{in_units(entry.download_bytes)} to fetch",
        entry.licence,
        installed=False,
    )


def _errors(entry: model_package.CatalogEntry | None) -> str:
    return "" if entry is None or entry.error_rate is None else f"{entry.error_rate:g} %"


def _fits(needs: Callable[[int], int], headroom: Headroom, workers: int, about: str = "") -> str:
    """In words; `about`: "~" where what it needs is an estimate."""
    for some in (workers, *range(workers - 1, 0, -1)):
        if (left := headroom.now - needs(some)) >= 0:
            if some == workers:
                return f"yes, leaves {about}{in_units(left)}"
            return f"with {about}{some} of {workers_text(workers)}"
    return f"no, needs {about}{in_units(needs(1))}"
