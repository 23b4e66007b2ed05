"""`modelserver models list`: what is installed, what could be, and what fits on this machine."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click

import models as model_package
from modelserver.cli.options import with_settings
from modelserver.serving.choice import (
    LEAST_GROWTH,
    Choice,
    candidate,
    choose_model,
    worker_count,
    workers_text,
)
from modelserver.serving.served import memory_settings
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration
from modelserver.settings.labels import first_model
from supervisor import Headroom, TargetUnavailable, find_headroom, in_units


@dataclass(frozen=True, slots=True)
class _Row:
    mark: str
    name: str
    language: str
    errors: str
    memory: str
    fits: str
    state: str
    licence: str

    def cells(self) -> tuple[str, ...]:
        return (
            f"{self.mark} {self.name}",
            self.language,
            self.errors,
            self.memory,
            self.fits,
            self.state,
            self.licence,
        )


_HEAD = ("  MODEL", "LANGUAGE", "ERRORS", "MEMORY", "FITS HERE", "STATE", "LICENCE")


@click.command("list")
@click.option("--installed", is_flag=True, help="leave out what would have to be fetched")
@click.option("--for", "spoken", metavar="LANGUAGE", help="only of this language, such as en or zh")
@with_settings("model", "models_dir", "prepared_dir", "language", "workers.count")
def list_models(configuration: Configuration, installed: bool, spoken: str | None) -> None:
    """Show what is installed and what could be fetched, and what of it fits on this machine now.

    A star marks the one that would be served. ERRORS: words (Chinese: characters) wrong in 100, as
    published. MEMORY: of the model, without its workers; "~" is an estimate from its size. FITS
    HERE: with the workers that are set, and what that would leave.
    """
    settings = first_model(configuration.settings)
    headroom = find_headroom(memory_settings(settings))
    served, why = _served(settings, headroom)
    here = list(_installed(settings, headroom, served))
    rows = [row for row, _ in here]
    if not installed:
        names = {row.name for row in rows}
        known = [entry for entry in model_package.catalog() if entry.name not in names]
        known.sort(key=lambda entry: (entry.language, entry.memory_bytes))
        rows += [_known(entry, headroom, worker_count(settings)) for entry in known]
    if spoken is not None:
        rows = [row for row in rows if _speaks(row, spoken)]
    table = [_HEAD, *(row.cells() for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEAD))]
    for row in table:
        click.echo("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip())
    for _, problems in here:
        for problem in problems:
            click.echo(problem, err=True)
    click.echo(f"\nRoom for {in_units(headroom.now)} now; {headroom.limit}.")
    if served is not None:
        each = workers_text(worker_count(settings))
        click.echo(
            f"* would be served: {in_units(served.prediction.model)} and "
            f"{in_units(served.prediction.growth)} for each of {each}."
        )
    else:
        click.echo(f"None would be served: {why}", err=True)


def _served(settings: Settings, headroom: Headroom) -> tuple[Choice | None, str]:
    try:
        return choose_model(settings, headroom), ""
    except TargetUnavailable as error:
        return None, str(error)


def _installed(
    settings: Settings, headroom: Headroom, served: Choice | None
) -> Iterator[tuple[_Row, tuple[str, ...]]]:
    for location in model_package.installed_models(settings.models_dir):
        entry = model_package.catalog_entry(location.name)
        try:
            choice = candidate(location, settings.prepared_dir, settings.rescoring)
        except model_package.ModelError as error:
            yield _Row(" ", location.name, location.language, "", "", "", error.message, ""), ()
            continue
        chosen = served is not None and served.location.directory == location.directory
        state = "prepared" if choice.prepared else "installed"
        yield (
            _Row(
                "*" if chosen else " ",
                location.name,
                entry.language if entry else location.language,
                _errors(entry),
                in_units(choice.prediction.model),
                _fits(choice.needs, headroom, worker_count(settings)),
                state,
                entry.licence if entry else "",
            ),
            choice.problems,
        )


def _known(entry: model_package.CatalogEntry, headroom: Headroom, workers: int) -> _Row:
    def needs(some: int) -> int:
        return entry.memory_bytes + some * LEAST_GROWTH

    about = "" if entry.size else "~"
    return _Row(
        " ",
        entry.name,
        entry.language,
        _errors(entry),
        f"{'' if entry.memory else '~'}{in_units(entry.memory_bytes)}",
        _fits(needs, headroom, workers, "~"),
        f"{about}{in_units(entry.download_bytes)} to fetch",
        entry.licence,
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


def _speaks(row: _Row, language: str) -> bool:
    """By its code, with or without a region, or by its English name."""
    wanted, code = language.lower(), model_package.language_of(row.name).lower()
    named = row.language.lower().split(" ")[0]
    return wanted in (code, named) or wanted.split("-")[0] == code.split("-")[0]
