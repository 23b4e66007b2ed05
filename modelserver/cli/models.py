"""`modelserver models`: the group, and the commands that make and carry prepared models."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from models import ModelLocation
from models.vosk import prepared as prepared_models
from models.vosk.prepared import Bounds, GraphCounts, Needs
from modelserver.cli.errors import must_be_ours, told
from modelserver.cli.models_clean import clean_models, prepared_forms
from modelserver.cli.models_inspect import inspect_model
from modelserver.cli.models_list import list_models
from modelserver.cli.models_pull import pull_model
from modelserver.cli.models_remove import remove_model, removed_spelling
from modelserver.cli.options import BACKGROUND, with_settings
from modelserver.serving.commands import ProgressLine, report
from modelserver.serving.load_specs import find_model, starting
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration
from modelserver.settings.fields import bytes_of
from supervisor import available_memory, in_units

_MOST = 2
"""How many times its estimate a preparation may take in the background."""


@click.group()
def models() -> None:
    """List, fetch, inspect, prepare and remove models."""


models.add_command(list_models)
models.add_command(inspect_model)
models.add_command(pull_model)
models.add_command(remove_model)
models.add_command(clean_models)
models.add_command(removed_spelling)


@models.command()
@click.argument("model", required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="write it here instead")
@click.option("--max-size", help='stop if the graph grows past this size, such as "2GiB"')
@BACKGROUND
@with_settings("models_dir", "prepared_dir", "language")
def prepare(
    configuration: Configuration,
    model: str | None,
    output: Path | None,
    max_size: str | None,
    background: int | None,
) -> None:
    """Compile a model's decoding graph ahead of time.

    The server then maps the compiled graph instead of composing it in every request: several times
    faster, in a fraction of the memory, with the same texts except for ties.

    MODEL is a name or a path. Without it, the model that would be served is prepared.
    """
    settings = configuration.settings
    with told(background):
        must_be_ours((output or settings.prepared_dir).absolute())
        location = _find(settings, model)
        found = prepared_models.find_prepared(location, settings.prepared_dir).prepared
        if found is not None and output is None:
            click.echo(f"{location.name} is prepared already: {found.directory}", err=True)
            return
        needs = prepared_models.estimate_needs(location.directory)
        click.echo(f"Preparing {location.name} takes {needs.in_words()}.", err=True)
        with _progress(needs, background is not None) as on_progress:
            made = prepared_models.prepare(
                location,
                settings.prepared_dir,
                available_memory=available_memory(),
                output=output,
                bounds=_bounds(max_size, needs, background is not None),
                starting=starting(settings, location),
                again=background is None,
                on_progress=on_progress,
            )
    manifest = made.manifest
    click.echo(
        f"Prepared in {manifest.seconds:.0f} s, {in_units(manifest.peak_bytes)} of memory at the "
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
        problems = prepared_models.verify(made)
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
        prepared_models.export_prepared(made[0], file)
    click.echo(f"{file}: {in_units(file.stat().st_size)}")


@models.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("model", required=False)
@with_settings("models_dir", "prepared_dir", "language")
def import_model(configuration: Configuration, file: Path, model: str | None) -> None:
    """Install a prepared model from a FILE of `export`.

    MODEL is the installed model that it was made from. Without it, the model that would be served.
    Checksums, and every state and arc of the graph, are checked.
    """
    settings = configuration.settings
    with told():
        must_be_ours(settings.prepared_dir)
        location = _find(settings, model)
        made = prepared_models.import_prepared(
            file, location, settings.prepared_dir, available_memory=available_memory()
        )
    click.echo(f"imported {made.directory}")


def _find(settings: Settings, model: str | None) -> ModelLocation:
    """Return the model of that name, or the one that would be served. Raises `ModelError`."""
    if model is not None:
        settings = msgspec.structs.replace(settings, model=(model,), models={})
    return find_model(settings)


@contextmanager
def _progress(needs: Needs, background: bool) -> Iterator[prepared_models.Progress]:
    """Show a bar on a terminal, or report lines to the server that started this process."""
    if background:

        def print_line(phase: str, counts: GraphCounts) -> None:
            report(ProgressLine(phase, counts.states, needs.steps))

        yield print_line
        return
    with click.progressbar(
        length=needs.steps,
        label="Composing (states)",
        file=sys.stderr,
        hidden=not sys.stderr.isatty(),
        show_pos=True,
    ) as bar:

        def move(phase: str, counts: GraphCounts) -> None:
            bar.label = {
                "graph": "Composing (states)",
                "check": "Comparing answers",
                "compiler": "Building the compiler",
                "place": "Writing",
            }[phase]
            bar.update(max(0, min(counts.states, needs.steps) - bar.pos))

        yield move


def _bounds(max_size: str | None, needs: Needs, background: bool) -> Bounds:
    """Return what preparing may take: in the background, where no person watches it, twice the
    estimate, since a graph that grows past that would fill memory and disk."""
    if max_size is None:
        return Bounds(_MOST * needs.mapped, _MOST * needs.memory) if background else Bounds()
    try:
        return Bounds(bytes_of(max_size))
    except ValueError:
        raise click.UsageError(f'--max-size = {max_size!r} is not a size such as "2GiB"') from None
