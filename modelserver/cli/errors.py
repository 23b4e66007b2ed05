"""How a command ends that cannot do what it was asked."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

import models


@contextmanager
def told() -> Iterator[None]:
    """A model's error ends the command with its sentence."""
    try:
        yield
    except models.ModelError as error:
        raise click.ClickException(error.message) from error
