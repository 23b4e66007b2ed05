"""Blocks about the command line and the models, which `api_tables.py` puts between markers."""

import re
from collections.abc import Callable, Iterable, Iterator
from inspect import cleandoc

import click
from api_tables import Wrong

import models
from modelserver.cli import main as program
from modelserver.serving.selection import LEAST_GROWTH
from modelserver.settings.fields import fields
from supervisor import in_units

MOST = 3_700_000_000
"""Bytes for a model and its workers on a machine with 4 GB, beside the reserve, the supervisor and
uploads."""
WORKERS = 2


def recommendations() -> str:
    """Return the table of the models to use on a machine with 2 processors and 4 GB."""
    rows = ["| language | recommended | memory | partial results during speech | memory |"]
    rows.append("| --- | --- | --- | --- | --- |")
    for tag, language in sorted(_languages().items(), key=lambda pair: pair[1]):
        best = _recommended(tag, models.catalog())
        live = _recommended(tag, [entry for entry in models.catalog() if entry.streaming])
        rows.append(f"| {language} (`{tag}`) | {_with_memory(best)} | {_with_memory(live)} |")
    return "\n".join(rows) + "\n"


def _languages() -> dict[str, str]:
    """Return the names of the languages that models of few languages recognise, by BCP 47 tag."""
    names: dict[str, str] = {}
    for entry in models.catalog():
        spelled = entry.language.split(", ")
        if len(spelled) == len(entry.tags):
            for tag, name in zip(entry.tags, spelled, strict=True):
                names.setdefault(tag.partition("-")[0], name.partition(" (")[0])
    return names


def _recommended(tag: str, entries: Iterable[models.CatalogEntry]) -> models.CatalogEntry | None:
    candidates = [
        models.Candidate(
            entry.name,
            entry.rates_for(tag),
            _needs(entry),
            0 < _needs(entry) <= MOST,
            preferred=entry.recommended_for(tag),
        )
        for entry in entries
        if entry.speaks(tag)
    ]
    best = models.recommend(candidates)
    return models.catalog_entry(best.name) if best is not None else None


def _needs(entry: models.CatalogEntry) -> int:
    """Return the memory of a model and its workers; 0 if that is not known."""
    workers = WORKERS * max(LEAST_GROWTH, entry.growth_bytes)
    return entry.memory_bytes + workers if entry.memory_bytes else 0


def _with_memory(entry: models.CatalogEntry | None) -> str:
    return f"`{entry.name}` | {in_units(_needs(entry))}" if entry is not None else "none | "


def commands() -> str:
    """Return the table of all commands."""
    rows = ["| command | what it does |", "| --- | --- |"]
    for command, ctx in _commands(program, click.Context(program, info_name="modelserver")):
        about = command.get_short_help_str(200)
        rows.append(f"| [`{ctx.command_path}`](#{_anchor(ctx.command_path)}) | {_cell(about)} |")
    return "\n".join(rows) + "\n"


def command_reference() -> str:
    """Return a section for each command: usage, help, options."""
    context = click.Context(program, info_name="modelserver")
    return "\n".join(_section(command, ctx) for command, ctx in _commands(program, context))


def _commands(
    command: click.Command, ctx: click.Context
) -> Iterator[tuple[click.Command, click.Context]]:
    """Iterate over a command without commands of its own, or over these. Raises `Wrong`."""
    if not isinstance(command, click.Group):
        if command.short_help and "Not installed" in command.short_help:
            raise Wrong(f"{ctx.command_path}: install modelserver-tools (pip install ./tools)")
        yield command, ctx
        return
    for name in command.list_commands(ctx):
        if (inner := command.get_command(ctx, name)) is not None and not inner.hidden:
            yield from _commands(inner, click.Context(inner, parent=ctx, info_name=name))


def _section(command: click.Command, ctx: click.Context) -> str:
    usage = f"{ctx.command_path} {' '.join(command.collect_usage_pieces(ctx))}"
    parts = [f"### {ctx.command_path}\n\n```\n{usage}\n```\n"]
    for paragraph in re.split(r"\n\s*\n", cleandoc(command.help or "")):
        if paragraph.startswith("\b"):
            parts.append("```\n" + paragraph.removeprefix("\b").strip("\n") + "\n```\n")
        else:
            sentences = re.split(r"(?<=[.?!]) (?=[A-Z])", " ".join(paragraph.split()))
            parts.append("\n".join(sentences) + "\n")
    settings = {field.flag for field in fields() if field.flag} | {"--config"}
    options = [
        (record, option.opts[0] in settings)
        for option in command.get_params(ctx)
        if isinstance(option, click.Option) and "--help" not in option.opts
        if (record := option.get_help_record(ctx)) is not None
    ]
    own = [record for record, shared in options if not shared]
    if own:
        rows = [f"| `{_cell(names)}` | {_cell(about)} |" for names, about in own]
        parts.append("\n".join(["| option | meaning |", "| --- | --- |", *rows]) + "\n")
    shared = ", ".join(
        f"`{record[0].split(' ')[0]}`" for record, is_setting in options if is_setting
    )
    if shared:
        parts.append(f"Settings: {shared}.\n")
    return "\n".join(parts)


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


TABLES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "command-reference": command_reference,
    "recommendations": recommendations,
}
"""Makers of blocks, by the names in their markers."""
