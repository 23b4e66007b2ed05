"""`modelserver models`: what there is to serve."""

import click

import models as model_package
from modelserver.cli.options import with_settings
from modelserver.configuration import Configuration


@click.group()
def models() -> None:
    """Look at the installed models."""


@models.command("list")
@with_settings("model", "models_dir", "language")
def list_models(configuration: Configuration) -> None:
    """Show the installed models; a star marks the one that would be served."""
    from modelserver.service import find_model

    settings = configuration.settings
    try:
        served = find_model(settings).directory
    except model_package.ModelError as error:
        served = None
        click.echo(f"none would be served: {error.message}", err=True)
    for model in model_package.installed_models(settings.models_dir):
        mark = "*" if model.directory == served else " "
        click.echo(f"{mark} {model.name:<32} {model.language:<6} {model.directory}")
