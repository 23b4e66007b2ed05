"""Command `modelserver models pull`: download and install a model."""

import asyncio
import difflib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

import models
from models.fetching import pull, pull_file
from modelserver.cli.errors import model_errors_shown, must_be_ours
from modelserver.cli.options import BACKGROUND, with_settings
from modelserver.serving.commands import ProgressLine, report
from modelserver.serving.listing import recommended
from modelserver.serving.pool_settings import memory_settings
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration
from modelserver.settings.labels import first_model
from supervisor import find_headroom, in_units

_ARCHIVES = (".zip", ".tar.bz2", ".tar.gz", ".tar.xz")
_REPORT_S = 0.2
_LABELS = {"download": "Downloading", "check": "Checking", "unpack": "Unpacking"}


@click.command("pull")
@click.argument("name", metavar="NAME|LANGUAGE|FILE")
@click.option(
    "--repin", is_flag=True, help="accept another checksum than that of the first download"
)
@BACKGROUND
@with_settings("models_dir", "models_urls")
def pull_model(
    configuration: Configuration, name: str, repin: bool, background: int | None
) -> None:
    """Download and install a model, or install an archive.

    A language, such as zh or ko, stands for the model that `models list` recommends for it. FILE is
    a zip, tar.bz2, tar.gz or tar.xz archive that is here already.

    The size and checksum, where they are known, are verified before anything is unpacked. A model
    that is not in the catalogue is pinned to the checksum of its first download (see --repin). An
    interrupted download is resumed, and an installed model is left unchanged. Proxies are those of
    the environment (HTTPS_PROXY, NO_PROXY).
    """
    settings = configuration.settings
    name = _recommended(settings, name) or name
    if (entry := models.catalog_entry(name)) is not None:
        name = entry.name
    for there in models.installed_models(settings.models_dir):
        if there.name == name:
            click.echo(f"{name} is installed already: {there.directory}", err=True)
            return
    with model_errors_shown(background), _progress(background) as on_progress:
        must_be_ours(settings.models_dir)
        _must_be_no_directory(name, settings.models_dir)
        try:
            if name.endswith(_ARCHIVES):
                directory = pull_file(Path(name), settings.models_dir, on_progress, repin=repin)
            else:
                source, home = settings.models_urls, settings.models_dir
                directory = asyncio.run(pull(name, home, source, on_progress, repin=repin))
        except models.ModelError as error:
            if error.code == "download_failed":
                raise models.ModelError(error.code, f"{error.message}{_ways_out(name)}") from error
            if error.code != "already_there":
                raise
            click.echo(error.message, err=True)
            return
    click.echo(f"installed {directory.name}: {directory}")
    if (how := _how_to_serve(directory)) is not None:
        click.echo(how, err=True)


def _must_be_no_directory(name: str, models_dir: Path) -> None:
    """Raises `ModelError` for the path of a directory, which is what an unpacked model is."""
    if "/" in name and (directory := Path(name)).is_dir():
        raise models.ModelError(
            "bad_name",
            f"{name} is a directory, which needs no installing: serve it with "
            f"`modelserver serve --model {name}`, or move it to {models_dir / directory.name} to "
            "serve it by its name",
        )


def _recommended(settings: Settings, text: str) -> str | None:
    """Return the model to use, if `text` is a language."""
    tag = models.language_tag(text)
    if tag is None or models.catalog_entry(text) is not None:
        return None
    own = first_model(settings)
    best = recommended(own, find_headroom(memory_settings(own)), tag)
    if best is None:
        where = " and can be downloaded from models_urls" if settings.models_urls else ""
        raise click.ClickException(
            f"no model for {text} fits on this machine{where}; see `modelserver models list {text}`"
        )
    click.echo(f"{best.name} is recommended for {text}: {best.why}.", err=True)
    return best.name


def _how_to_serve(directory: Path) -> str | None:
    """Return what has to be done before the model can be served."""
    if models.punctuation_problem(directory) is None:
        return 'To use it: text.steps = ["punctuation"], beside other steps if there are any'
    missing = models.engine_of(directory).missing()
    return missing and f"To serve it: {missing}"


def _ways_out(name: str) -> str:
    """Return what to try where a model cannot be downloaded."""
    entries = (*models.catalog(), *models.punctuation_catalog())
    known = [name for entry in entries for name in (entry.name, entry.alias) if name]
    unknown = ""
    if name not in known:
        longer = [one for one in known if one.startswith(name)]
        longer += [one for one in known if name in one and one not in longer]
        close = longer[:3] or difflib.get_close_matches(name, known, n=3)
        meant = f"; did you mean {' or '.join(close)}?" if close else ""
        unknown = f"\n{name} is not in the catalogue (`modelserver models list`){meant}"
    return (
        f"{unknown}\nA file that you have: modelserver models pull FILE.zip (or .tar.bz2). "
        "Mirrors: the setting models_urls. A proxy: HTTPS_PROXY."
    )


@contextmanager
def _progress(background: int | None) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each phase on a terminal, or report lines to the server that started this
    process."""
    if background is not None:
        yield _Reported()
        return
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


class _Reported:
    """Progress for a server, a few times a second."""

    def __init__(self) -> None:
        self._phase, self._next = "", 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase != self._phase or now >= self._next:
            self._phase, self._next = phase, now + _REPORT_S
            report(ProgressLine(phase, done, total))
