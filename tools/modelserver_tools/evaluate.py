"""Command `modelserver evaluate`: error rates of a model on audio with known transcripts."""

import asyncio
from pathlib import Path

import click
import msgspec
import uvloop

from modelserver.batch.engine import Engine
from modelserver.batch.errors import EngineUnusable
from modelserver.batch.files import found, seconds_of
from modelserver.batch.journal import Journal
from modelserver.batch.outcome import Outcome, outcome_of, readable
from modelserver.cli.engines import engine_of
from modelserver.cli.options import with_settings
from modelserver.settings.configuration import KEY_VARIABLE, Configuration
from modelserver.speech.messages import SpeechRequest
from modelserver_tools.evaluation.references import ReferencesUnusable, read_references
from modelserver_tools.evaluation.run import Run, RunUnusable, compared, in_words, read_run, run_of

_WORST = 5
_MISSING_SHOWN = 5


@click.command()
@click.option(
    "--audio",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="a directory of audio files",
)
@click.option(
    "--references",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help='reference transcripts: .csv or .tsv with a header, .jsonl, .trn, or lines of "NAME TEXT"',
)
@click.option("--server", metavar="URL", help="send the files to a running server")
@click.option("--key", envvar=KEY_VARIABLE, help="API key for that server")
@click.option(
    "--save",
    type=click.Path(path_type=Path, dir_okay=False),
    help="write the results as JSON: each file with its texts and errors",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="compare with another run, written by --save",
)
@click.option("--by-file", is_flag=True, help="show every file, the worst first")
@with_settings(
    "workers.count",
    "model",
    "models_dir",
    "prepared_dir",
    "language",
    "engines.vosk.simd",
    "engines.vosk.rescoring",
    "profile",
)
def evaluate(
    configuration: Configuration,
    audio: Path,
    references: Path,
    server: str | None,
    key: str | None,
    save: Path | None,
    against: Path | None,
    by_file: bool,
) -> None:
    """Measure character and word error rates.

    With 95 % intervals (bootstrap over files). Two runs are compared file by file.
    """
    try:
        known = read_references(references)
        before = None if against is None else read_run(against)
    except (ReferencesUnusable, RunUnusable) as error:
        raise click.ClickException(str(error)) from error
    files = {Path(file).stem: file for file in found([str(audio)])}
    wanted = {name: file for name, file in files.items() if name in known}
    if not wanted:
        raise click.ClickException(
            f"no file in {audio} has the name of a reference; one of those is {next(iter(known))!r}"
        )
    _tell_of_the_missing(sorted(known.keys() - files.keys()), "references have no audio")
    _tell_of_the_missing(sorted(files.keys() - known.keys()), "files have no reference")
    engine = engine_of(configuration, SpeechRequest(), None, None, server, key)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            outcomes = runner.run(_recognise(engine, list(wanted.values())))
    except EngineUnusable as error:
        raise click.ClickException(str(error)) from error
    texts, failed, by = {}, [], _by(configuration, server)
    for name, outcome in zip(wanted, outcomes, strict=True):
        if outcome.speech is None:
            failed.append(f"{readable(outcome.file)}: {outcome.error}")
        else:
            texts[name] = known[name], outcome.speech.text
            by["model"] = outcome.speech.model
    run = run_of(by, texts, sorted(failed))
    for line in in_words(run, worst=len(run.files) if by_file else _WORST):
        click.echo(line)
    if before is not None:
        try:
            for line in compared(run, before, str(against)):
                click.echo(line)
        except RunUnusable as error:
            raise click.ClickException(str(error)) from error
    if save is not None:
        _save(run, save)
    if failed:
        raise SystemExit(1)


def _by(configuration: Configuration, server: str | None) -> dict[str, str]:
    if server is not None:
        return {"server": server}
    settings = configuration.settings
    vosk = settings.engines.vosk
    return {"simd": vosk.simd, "rescoring": vosk.rescoring, "profile": settings.profile}


async def _recognise(engine: Engine, files: list[str]) -> list[Outcome]:
    """Transcribe all files; return the outcomes in their order."""
    with Journal(None, "evaluate") as journal:
        async with engine:
            slots = asyncio.Semaphore(engine.at_once)

            async def one(file: str) -> Outcome:
                async with slots:
                    note = journal.note(file)
                    outcome = await outcome_of(engine, file, seconds_of(file), note, lambda _: None)
                    if outcome.speech is not None:
                        await engine.delivered(note)
                    return outcome

            try:
                async with asyncio.TaskGroup() as tasks:
                    begun = [tasks.create_task(one(file)) for file in files]
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from errors
    return [task.result() for task in begun]


def _tell_of_the_missing(names: list[str], what: str) -> None:
    if names:
        some = ", ".join(names[:_MISSING_SHOWN])
        more = ", ..." if len(names) > _MISSING_SHOWN else ""
        click.echo(f"{len(names)} {what}: {some}{more}", err=True)


def _save(run: Run, file: Path) -> None:
    try:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(run)) + b"\n")
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from error
