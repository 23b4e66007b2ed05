"""`modelserver models pull`: fetch a model and install it."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

import models
from models.fetching import pull, pull_file
from modelserver.cli.errors import must_be_ours, told
from modelserver.cli.options import with_settings
from modelserver.settings.configuration import Configuration
from supervisor import in_units

_LABELS = {"download": "Downloading", "check": "Checking", "unpack": "Unpacking"}


@click.command("pull")
@click.argument("name", metavar="NAME|FILE.zip")
@with_settings("models_dir", "models_url")
def pull_model(configuration: Configuration, name: str) -> None:
    """Fetch a model and install it, or install one from a zip file that is here.

    What is known of its size and checksum is verified before anything is unpacked; a model that
    the catalogue does not know is pinned to what is fetched first. A download that broke off goes
    on where it was, and a model that is installed is left as it is. Proxies are those of the
    environment (HTTPS_PROXY, NO_PROXY).
    """
    settings = configuration.settings
    for there in models.installed_models(settings.models_dir):
        if there.name == name:
            click.echo(f"{name} is installed already: {there.directory}", err=True)
            return
    with told(), _progress() as on_progress:
        must_be_ours(settings.models_dir)
        try:
            if name.endswith(".zip"):
                directory = pull_file(Path(name), settings.models_dir, on_progress)
            else:
                fetching = pull(name, settings.models_dir, settings.models_url, on_progress)
                directory = asyncio.run(fetching)
        except models.ModelError as error:
            if error.code != "already_there":
                raise
            click.echo(error.message, err=True)
            return
    click.echo(f"installed {directory.name}: {directory}")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each phase on a terminal; nothing elsewhere."""
    with click.progressbar(
        length=1, label=_LABELS["download"], file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:
        phase, shown = "", 0

        def move(now: str, done: int, total: int) -> None:
            nonlocal phase, shown
            if now != phase:
                phase, shown, bar.pos = now, 0, 0
                bar.label = f"{_LABELS[now]}{f' {in_units(total)}' if total else ''}"
            bar.length = total or None
            bar.update(done - shown)
            shown = done

        yield move
