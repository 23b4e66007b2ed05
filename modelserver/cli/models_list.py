"""`modelserver models list`: installed and known models, and which of them fit here."""

import click

import models as model_package
from modelserver.cli.options import with_settings
from modelserver.serving.listing import ModelRow, overview
from modelserver.serving.pool_settings import memory_settings
from modelserver.serving.selection import worker_count, workers_text
from modelserver.settings.configuration import Configuration
from modelserver.settings.labels import first_model
from supervisor import find_headroom, in_units

_HEAD = ("  MODEL", "LANGUAGE", "ERRORS", "MEMORY", "FITS HERE", "STATE", "LICENCE")


@click.command("list")
@click.option("--installed", is_flag=True, help="list installed models only")
@click.option(
    "--for",
    "spoken",
    metavar="LANGUAGE",
    help="list models of this language only, such as en or zh",
)
@with_settings("model", "models_dir", "prepared_dir", "language", "workers.count")
def list_models(configuration: Configuration, installed: bool, spoken: str | None) -> None:
    """List models, and whether they fit on this machine.

    Installed models and those that the catalogue offers are listed. A star marks the one that would
    be served. ERRORS: words (Chinese: characters) wrong in 100, as published. MEMORY: of the model,
    without its workers; "~" is an estimate from its size. FITS HERE: with the workers that are set,
    and what that would leave.
    """
    settings = first_model(configuration.settings)
    headroom = find_headroom(memory_settings(settings))
    found = overview(settings, headroom, installed=installed)
    rows, served = found.rows, found.choice
    if spoken is not None:
        rows = [row for row in rows if _speaks(row, spoken)]
        if not rows:
            raise click.ClickException(
                f"no model for {spoken!r} is {'installed' if installed else 'installed or known'}; "
                "`modelserver models list` shows all"
            )
    table = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(_HEAD))]
    for cells in table:
        click.echo("  ".join(f"{c:<{w}}" for c, w in zip(cells, widths, strict=True)).rstrip())
    for row in rows:
        for problem in row.problems:
            click.echo(problem, err=True)
    click.echo(f"\nRoom for {in_units(headroom.now)} now; {headroom.limit}.")
    if served is not None and not any(row.chosen for row in rows):
        click.echo(f"{served.location.name} would be served, which is not in this list.")
    elif served is not None:
        each = workers_text(worker_count(settings))
        click.echo(
            f"* would be served: {in_units(served.prediction.model)} and "
            f"{in_units(served.prediction.growth)} for each of {each}."
        )
    else:
        click.echo(f"None would be served: {found.why_none}", err=True)


def _cells(row: ModelRow) -> tuple[str, ...]:
    mark = "*" if row.chosen else " "
    return (
        f"{mark} {row.name}",
        row.language,
        row.errors,
        row.memory,
        row.fits,
        row.state,
        row.licence,
    )


def _speaks(row: ModelRow, language: str) -> bool:
    """Compare a language's code, with or without a region, or its English name."""
    wanted, code = language.lower(), model_package.language_of(row.name).lower()
    named = row.language.lower().split(" ")[0]
    return wanted in (code, named) or wanted.split("-")[0] == code.split("-")[0]
