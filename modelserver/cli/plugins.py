"""The commands of this package; commands and engines of other distributions, found by their entry
points."""

import contextlib
import difflib
import importlib
from importlib.metadata import EntryPoint, entry_points

import click

from modelserver.extras import how_to_install_tools

OWN = (
    *("completion", "config", "doctor", "keys", "listen", "manual", "models", "ready", "serve"),
    *("status", "top", "transcribe", "upgrade"),
)
"""Commands of this package: each has the name of its module."""
COMMANDS = "modelserver.commands"
"""Entry points: click commands by their names."""
ENGINES = "modelserver.transcription_engines"
"""Entry points: `(Settings, SpeechRequest, address) -> Engine`, for `transcribe --on ray`."""
TOOLS = {COMMANDS: ("evaluate", "plan"), ENGINES: ("ray",)}
"""Commands and engines of modelserver-tools, which help texts name whether it is installed or not.
"""


def find_plugin(group: str, name: str) -> EntryPoint | None:
    """Return the entry point `name` of `group`, unless no installed distribution has it."""
    return next(iter(entry_points(group=group, name=name)), None)


class Commands(click.Group):
    """The commands of this package, and those of other distributions."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names of all commands."""
        added = (*entry_points(group=COMMANDS).names, *TOOLS[COMMANDS])
        return sorted({*OWN, *added})

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command and its arguments. An unknown name is answered with a similar one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            similar = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            if not similar:
                raise
            text = f"{error.format_message()} Did you mean {similar[0]!r}?"
            raise click.UsageError(text, ctx) from error

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name. One of modelserver-tools, without it, says how to
        install it."""
        found: click.Command | None = None
        if cmd_name in OWN:
            found = getattr(importlib.import_module(f"modelserver.cli.{cmd_name}"), cmd_name)
        elif (added := find_plugin(COMMANDS, cmd_name)) is not None:
            with contextlib.suppress(ImportError):  # of a package that it needs
                found = added.load()
        if found is None and cmd_name in TOOLS[COMMANDS]:
            found = _missing(cmd_name)
        return found


def _missing(name: str) -> click.Command:
    @click.command(
        name,
        add_help_option=False,
        short_help="Not installed: part of modelserver-tools.",
        context_settings={"ignore_unknown_options": True},
    )
    @click.argument("arguments", nargs=-1)
    def missing(arguments: tuple[str, ...]) -> None:
        raise click.ClickException(f"`{name}` is part of {how_to_install_tools()}")

    return missing
