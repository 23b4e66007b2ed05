"""Command `modelserver manual`: the manual page, made from the texts of `--help`."""

import re
from collections.abc import Iterator
from inspect import cleandoc

import click

from modelserver import __version__
from modelserver.cli.completion import PROGRAM


@click.command()
@click.pass_context
def manual(ctx: click.Context) -> None:
    """Print the manual page.

    It is for `man -l -` or /usr/share/man/man1/modelserver.1.
    """
    program = ctx.find_root().command
    named = click.Context(program, info_name=PROGRAM)  # `python -m` has another name
    click.echo("\n".join(_page(program, named)))


def _page(program: click.Command, ctx: click.Context) -> Iterator[str]:
    yield f'.TH MODELSERVER 1 "" "modelserver {__version__}" "User Commands"'
    yield ".SH NAME"
    yield _text(f"modelserver - {program.get_short_help_str(200).rstrip('.').lower()}")
    yield ".SH SYNOPSIS"
    yield ".B modelserver"
    yield _text("COMMAND [OPTION]... [ARGUMENT]...")
    yield ".SH COMMANDS"
    yield from _commands(program, ctx)
    yield ".SH FILES"
    yield from (
        ".TP",
        ".I /etc/modelserver.toml",
        "settings; modelserver config \\-\\-explain lists them",
    )
    yield ".SH EXIT STATUS"
    yield "0 on success, 1 where a command failed, 2 where it was not understood."


def _commands(command: click.Command, ctx: click.Context) -> Iterator[str]:
    """Describe a command without commands of its own, or each of these."""
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            if (inner := command.get_command(ctx, name)) is not None and not inner.hidden:
                yield from _commands(inner, click.Context(inner, parent=ctx, info_name=name))
        return
    yield f'.SS "{_text(ctx.command_path)} {_text(" ".join(command.collect_usage_pieces(ctx)))}"'
    yield from _paragraphs(command.help or command.short_help or "")
    for parameter in command.get_params(ctx):
        if (
            isinstance(parameter, click.Option)
            and (record := parameter.get_help_record(ctx)) is not None
        ):
            yield from (".TP", f".B {_text(record[0])}", _text(record[1]))


def _paragraphs(text: str) -> Iterator[str]:
    """Write paragraphs as roff; those after a line with \\b keep their lines."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", cleandoc(text))):
        verbatim = paragraph.lstrip().startswith("\b")
        if number:
            yield ".PP"
        if verbatim:
            yield from (".nf", *map(_text, paragraph.replace("\b", "").strip().splitlines()), ".fi")
        else:
            yield _text(" ".join(paragraph.split()))


def _text(text: str) -> str:
    """Return `text` so that roff prints it as it is."""
    escaped = text.replace("\\", "\\\\").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
