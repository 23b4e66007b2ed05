"""How a command ends that cannot do what it was asked."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import click

import models


@contextmanager
def told() -> Iterator[None]:
    """A model's error ends the command with its sentence. Exit status: 1, or as shells say it
    where a process that it had started was killed."""
    try:
        yield
    except models.ModelError as error:
        ending = _LostOne if error.code == "killed" else click.ClickException
        raise ending(error.message) from error


class _LostOne(click.ClickException):
    exit_code = 128 + signal.SIGKILL
