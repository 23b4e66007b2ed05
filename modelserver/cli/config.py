"""Command `modelserver config`: the settings in force, and where each came from."""

import json
import math
from pathlib import Path
from typing import Any

import click

from modelserver.cli.options import SERVER_SETTINGS, with_settings
from modelserver.serving.pool_settings import memory_settings
from modelserver.settings.configuration import Configuration
from modelserver.settings.fields import HIDDEN, Field, named_fields, size_text
from modelserver.settings.schema import shown
from supervisor import explain_limits

_WIDTH = 52
"""Width of the column of settings; longer ones overflow it."""


@click.command()
@click.option(
    "--explain", is_flag=True, help="add what each setting is for, and its allowed values"
)
@with_settings(*SERVER_SETTINGS)
def config(configuration: Configuration, explain: bool) -> None:
    """Print the settings in force as TOML, with their origins.

    You can use the output as a settings file: modelserver config > modelserver.toml
    """
    rows = [(field, _shown(field, value), origin) for field, value, origin in configuration.rows()]
    found = explain_limits(memory_settings(configuration.settings))
    section = ""
    for field, value, origin in rows:
        home, _, leaf = field.name.rpartition(".")
        if home != section:
            section = home
            click.echo(f"\n[{section}]")
        if explain:
            click.echo(f"# {field.about}\n# allowed: {field.allowed}; variable: {field.variable}")
        here = ""
        if value == "auto" and (explained := found.get(field.name)) is not None:
            here = f"; here {explained.bytes} bytes: {explained.reason}"
        if HIDDEN in str(value):  # as a comment: the output is a file that can be used
            leaf, here = f"# {leaf}", "; set, and not shown"
        click.echo(f"{f'{leaf} = {_toml(value)}':<{_WIDTH}}  # {origin}{here}")
    if explain and not configuration.settings.models:
        click.echo("\n# Several models at once, each in a section [models.NAME]:")
        for field in named_fields("NAME"):
            click.echo(f"# {field.name}: {field.about}; allowed: {field.allowed}")


def _shown(field: Field, value: Any) -> Any:
    value = field.shown(value)
    if field.unit == "bytes" and isinstance(value, int):
        text = size_text(value)
        return value if text.isdigit() else text
    return value


def _toml(value: Any) -> str:
    if isinstance(value, Path):
        value = shown(value)
    if isinstance(value, tuple):
        value = value[0] if len(value) == 1 else list(value)
    if value == math.inf:
        return "inf"
    # A TOML basic string is a JSON string; numbers look the same.
    return json.dumps(value, ensure_ascii=False)
