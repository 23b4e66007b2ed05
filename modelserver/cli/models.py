"""Command group `modelserver models`, and the commands that prepare models and copy prepared
ones."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from models import (
    EngineSettings,
    ModelError,
    ModelLocation,
    PreparedStore,
    Preparing,
    Progress,
    engine_of,
)
from modelserver.cli.errors import must_be_ours, told
from modelserver.cli.models_clean import clean_models, prepared_forms
from modelserver.cli.models_inspect import inspect_model
from modelserver.cli.models_list import list_models
from modelserver.cli.models_pull import pull_model
from modelserver.cli.models_remove import remove_model, removed_spelling
from modelserver.cli.options import BACKGROUND, with_settings
from modelserver.serving.commands import ProgressLine, report
from modelserver.serving.load_specs import find_model, loading_environment
from modelserver.serving.selection import candidate, engine_settings
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration
from modelserver.settings.fields import bytes_of
from supervisor import in_units


@click.group()
def models() -> None:
    """List, download, inspect, prepare and remove models."""


models.add_command(list_models)
models.add_command(inspect_model)
models.add_command(pull_model)
models.add_command(remove_model)
models.add_command(clean_models)
models.add_command(removed_spelling)


@models.command()
@click.argument("model", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="directory for the prepared model  [default: below prepared_dir]",
)
@click.option("--max-size", help='stop if the result grows past this size, such as "2GiB"')
@BACKGROUND
@with_settings("models_dir", "prepared_dir", "language")
def prepare(
    configuration: Configuration,
    model: str | None,
    output: Path | None,
    max_size: str | None,
    background: int | None,
) -> None:
    """Prepare a model ahead of time.

    For a Vosk model, this compiles the decoding graph. The server then maps the compiled graph
    instead of composing it in every request: several times faster, in a fraction of the memory,
    with the same texts except for ties.

    MODEL is a name or a path. Without it, the model that would be served is prepared.
    """
    settings = configuration.settings
    with told(background):
        must_be_ours((output or settings.prepared_dir).absolute())
        location = _find(settings, model)
        store, of_engine = _store(location, settings)
        there = candidate(location, settings).form.prepared
        if there is not None and output is None:
            click.echo(f"{location.name} is prepared already: {there}", err=True)
            return
        needs = store.needs(location)
        click.echo(f"Preparing {location.name} takes {needs.in_words()}.", err=True)
        with _progress(needs.steps, background is not None) as on_progress:
            made = store.prepare(
                location,
                Preparing(
                    of_engine,
                    loading_environment(settings),
                    output,
                    _bytes(max_size),
                    background is not None,
                    on_progress,
                ),
            )
    click.echo(
        f"Prepared in {made.seconds:.0f} s, {in_units(made.peak_bytes)} of memory at the "
        f"peak: {made.summary}, {in_units(made.bytes_on_disk)} in {made.directory}",
        err=True,
    )


@models.command()
@click.argument("name", required=False)
@with_settings("prepared_dir")
def verify(configuration: Configuration, name: str | None) -> None:
    """Check prepared models against their checksums.

    NAME is a model or one of its prepared forms. Without it, all are checked.
    """
    damaged = False
    for made in prepared_forms(configuration.settings, name):
        problems = made.store.verify(made.directory)
        damaged = damaged or bool(problems)
        click.echo(f"{made.directory.name}: {'; '.join(problems) or 'whole'}")
    if damaged:
        raise SystemExit(1)


@models.command("export")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@with_settings("prepared_dir")
def export_model(configuration: Configuration, name: str, file: Path) -> None:
    """Write a prepared model to a FILE for another machine."""
    made = prepared_forms(configuration.settings, name)
    if len(made) > 1:
        names = ", ".join(m.directory.name for m in made)
        raise click.ClickException(f"{name} is prepared more than once: say which of {names}")
    with told():
        made[0].store.write_archive(made[0].directory, file)
    click.echo(f"{file}: {in_units(file.stat().st_size)}")


@models.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("model", required=False)
@with_settings("models_dir", "prepared_dir", "language")
def import_model(configuration: Configuration, file: Path, model: str | None) -> None:
    """Install a prepared model from a FILE of `export`.

    MODEL is the installed model that it was made from. Without it, the model that would be served.
    Checksums and everything in it are checked.
    """
    settings = configuration.settings
    with told():
        must_be_ours(settings.prepared_dir)
        location = _find(settings, model)
        store, of_engine = _store(location, settings)
        made = store.read_archive(file, location, of_engine)
    click.echo(f"imported {made.directory}")


def _find(settings: Settings, model: str | None) -> ModelLocation:
    """Return the model of that name, or the one that would be served. Raises `ModelError`."""
    if model is not None:
        settings = msgspec.structs.replace(settings, model=(model,), models={})
    return find_model(settings)


def _store(location: ModelLocation, settings: Settings) -> tuple[PreparedStore, EngineSettings]:
    """Return where the model's engine has its prepared models. Raises `ModelError`."""
    engine = engine_of(location.directory)
    if engine.store is None:
        raise ModelError("not_prepared", f"models of {engine.name} are loaded as they are")
    return engine.store, engine_settings(settings, engine)


@contextmanager
def _progress(steps: int, background: bool) -> Iterator[Progress]:
    """Show a bar on a terminal, or report lines to the server that started this process."""
    if background:
        yield lambda phase, done: report(ProgressLine(phase, done, steps if done else 0))
        return
    with click.progressbar(
        length=steps, file=sys.stderr, hidden=not sys.stderr.isatty(), show_pos=True
    ) as bar:

        def move(phase: str, done: int) -> None:
            bar.label = phase
            bar.update(max(0, min(done, steps) - bar.pos))

        yield move


def _bytes(max_size: str | None) -> int:
    if max_size is None:
        return 0
    try:
        return bytes_of(max_size)
    except ValueError:
        raise click.UsageError(f'--max-size = {max_size!r} is not a size such as "2GiB"') from None
