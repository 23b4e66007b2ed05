"""Command `modelserver models remove`: delete an installed model."""

import shlex

import click

import models
from models import fetching
from modelserver.cli.errors import told
from modelserver.cli.models_clean import all_prepared, delete_prepared
from modelserver.cli.options import with_settings
from modelserver.settings.configuration import Configuration


@click.command("remove")
@click.argument("name")
@with_settings("models_dir", "prepared_dir")
def remove_model(configuration: Configuration, name: str) -> None:
    """Delete an installed model and its prepared forms.

    A running server continues with the model that it has loaded. To delete only the prepared forms,
    use `modelserver models clean NAME`.
    """
    settings = configuration.settings
    forms = [form for form in all_prepared(settings.prepared_dir) if form.made.name == name]
    with told():
        try:
            directory = fetching.remove(name, settings.models_dir)
        except models.ModelError as error:
            if error.code != "model_not_found" or not forms:
                raise
            raise models.ModelError(
                error.code,
                f"{error.message}; to delete its prepared forms: "
                f"modelserver models clean {shlex.quote(name)}",
            ) from error
    for prepared in forms:
        delete_prepared(prepared)
    click.echo(f"removed {directory}")


@click.command("uninstall", hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def removed_spelling(arguments: tuple[str, ...]) -> None:
    """Name the command that replaced this one."""
    command = shlex.join(("modelserver", "models", "remove", *arguments))
    raise click.ClickException(f"`models uninstall` was renamed: use `{command}`")
