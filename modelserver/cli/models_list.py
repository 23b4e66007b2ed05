"""Command `modelserver models list`: installed and known models, which of them fit here, and which
is recommended for a language."""

import click
import msgspec

import models
from modelserver.cli.options import with_settings
from modelserver.cli.tables import table_lines, terminal_width
from modelserver.serving.listing import (
    ModelRow,
    Overview,
    PunctuationRow,
    overview,
    punctuation_rows,
)
from modelserver.serving.pool_settings import memory_settings
from modelserver.serving.selection import worker_count
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration
from modelserver.settings.labels import first_model
from supervisor import Headroom, counted, find_headroom, in_units


@click.command("list")
@click.argument("language", required=False)
@click.option("--installed", is_flag=True, help="list installed models only")
@click.option("--for", "spoken", metavar="LANGUAGE", help="the same as the argument")
@click.option("--json", "as_json", is_flag=True, help="print a JSON document")
@with_settings("model", "models_dir", "prepared_dir", "language", "workers.count")
def list_models(
    configuration: Configuration,
    language: str | None,
    installed: bool,
    spoken: str | None,
    as_json: bool,
) -> None:
    """List models, and whether they fit on this machine.

    The list has the installed models and those of the catalogue. A star marks the one that would be
    served. With LANGUAGE, such as en or zh, only models of that language are listed, with more
    columns, and a plus marks the one that is recommended for this machine.

    ERRORS: wrong words in 100 (Chinese, Japanese, Korean: characters), as published. Compare only
    rates with the same number: they are from one source, on the same recordings. MEMORY: of the
    model, and with the workers that are set; "~" is an estimate from its size. SPEED: seconds of
    one processor for a second of speech. LIVE: whether text appears during speech, or at pauses.

    On a terminal that is too narrow, LICENCE and SPEED are left out and long cells are wrapped.
    """
    settings = first_model(configuration.settings)
    headroom = find_headroom(memory_settings(settings))
    wanted = language or spoken
    tag = models.language_tag(wanted) or wanted if wanted is not None else ""
    found = overview(settings, headroom, installed=installed, language=tag)
    if wanted is not None and not found.rows:
        raise click.ClickException(
            f"no model for {wanted!r} is {'installed' if installed else 'installed or known'}; "
            "`modelserver models list` shows all"
        )
    if as_json:
        punctuation = punctuation_rows(settings, installed=installed, language=tag)
        click.echo(_document(found, punctuation, tag, headroom, worker_count(settings)))
        return
    notes = _Notes() if tag else None
    head = _head(worker_count(settings), detailed=notes is not None)
    table = [head, *(_cells(row, notes) for row in found.rows)]
    for line in table_lines(table, terminal_width(), {"LICENCE", "SPEED"}):
        click.echo(line)
    for row in found.rows:
        for problem in row.problems:
            click.echo(problem, err=True)
    if notes is not None:
        notes.show()
    _say_punctuation(punctuation_rows(settings, installed=installed, language=tag))
    click.echo(f"\nRoom for {in_units(headroom.now)} now; {headroom.limit}.")
    _say_served(found, settings)
    if tag:
        _say_recommended(found, wanted or tag)


def _say_served(found: Overview, settings: Settings) -> None:
    served = found.choice
    if served is not None and not any(row.chosen for row in found.rows):
        click.echo(f"`modelserver serve` loads {served.location.name}, which is not in this list.")
    elif served is not None:
        each = counted(worker_count(settings), "worker")
        least, growth = served.least_growth, served.prediction.growth
        between = f"{in_units(least)} to " if least < growth else ""
        click.echo(
            f"* would be served: {in_units(served.prediction.model)} and "
            f"{between}{in_units(growth)} for each of {each}."
        )
    else:
        click.echo(f"`modelserver serve` has no model to load: {found.why_none}", err=True)


def _say_punctuation(rows: list[PunctuationRow]) -> None:
    if rows:
        click.echo("\nPunctuation models, for the text step punctuation (text.punctuation_model):")
    for row in rows:
        click.echo(f"  {row.name}  {row.languages}  {row.memory}  {row.state}".rstrip())


def _say_recommended(found: Overview, language: str) -> None:
    best = found.recommendation
    if best is None:
        click.echo(f"No model for {language} fits here.", err=True)
        return
    row = next(row for row in found.rows if row.recommended)
    mark = "* is also" if row.chosen else "+ is"
    click.echo(f"{mark} recommended for {language}: {best.why}.")
    if not row.installed:
        click.echo(f"To get it: modelserver models pull {best.name}")
    if row.missing is not None:
        click.echo(f"To serve it: {row.missing}")


class _Notes:
    """Numbered sources of the error rates in a table."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}

    def rates(self, row: ModelRow) -> str:
        """Return the error rates of a model, each with the number of its source."""
        return ", ".join(f"{rate.rate:g} % [{self._number(rate)}]" for rate in row.error_rates)

    def show(self) -> None:
        """Print the sources; rates of one of them compare."""
        for (recordings, source), number in self._numbers.items():
            click.echo(f"{'' if number > 1 else chr(10)}[{number}] {recordings}: {source}")

    def _number(self, rate: models.ErrorRate) -> int:
        return self._numbers.setdefault((rate.on, rate.source), len(self._numbers) + 1)


def _document(
    found: Overview,
    punctuation: list[PunctuationRow],
    language: str,
    headroom: Headroom,
    workers: int,
) -> str:
    document = {
        "language": language,
        "workers": workers,
        "room_bytes": headroom.now,
        "limit": str(headroom.limit),
        "recommended": found.recommendation,
        "models": found.rows,
        "punctuation_models": punctuation,
    }
    return msgspec.json.format(msgspec.json.encode(document)).decode()


def _head(workers: int, *, detailed: bool) -> tuple[str, ...]:
    names = ("  MODEL", "LANGUAGE", "ERRORS", "MEMORY")
    if not detailed:
        return (*names, "FITS HERE", "STATE", "LICENCE")
    together = f"WITH {counted(workers, 'worker').upper()}"
    return (*names, together, "FITS HERE", "SPEED", "LIVE", "STATE", "LICENCE")


def _cells(row: ModelRow, notes: _Notes | None) -> tuple[str, ...]:
    mark = "*" if row.chosen else "+" if row.recommended else " "
    first = (f"{mark} {row.name}", row.language)
    if notes is None:
        return (*first, row.errors, row.memory, row.fits, row.state, row.licence)
    about = "~" if row.memory.startswith("~") else ""
    return (
        *first,
        notes.rates(row),
        row.memory,
        f"{about}{in_units(row.needs)}" if row.needs else "",
        row.fits,
        f"{row.speed:g}" if row.speed else "",
        "words" if row.streaming else "pauses",
        row.state,
        row.licence,
    )
