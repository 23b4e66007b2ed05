"""Endings of commands that fail."""

import os
import pwd
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

import models
from modelserver.serving.commands import FailureLine, in_background, report


@contextmanager
def model_errors_shown(background: int | None = None) -> Iterator[None]:
    """End the command with the message of a model's error. Exit status: 1, or as shells report it
    if a process that the command had started was killed. `background`: process id of the server
    that started this process, if any: it receives the code too, and this process takes the lowest
    priority."""
    if background is not None:
        in_background(background)
    try:
        yield
    except models.ModelError as error:
        if background is not None and error.code != "killed":
            report(FailureLine(error.code, error.message))
        ending = _LostOne if error.code == "killed" else click.ClickException
        raise ending(error.message) from error


class _LostOne(click.ClickException):
    exit_code = 128 + signal.SIGKILL


def must_be_ours(directory: Path) -> None:
    """Root does not leave files in a service's directory that the service may not change. Raises
    `click.ClickException`."""
    existing = next((d for d in (directory, *directory.parents) if d.exists()), directory)
    owner = existing.stat().st_uid
    if os.getuid() != 0 or owner == 0:
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"#{owner}"
    command = " ".join(("modelserver", *map(shlex.quote, sys.argv[1:])))
    raise click.ClickException(
        f"{directory} is {name}'s: run the command as that user "
        f"(sudo -u {shlex.quote(name)} {command})"
    )
