"""Command `modelserver transcribe FILE...`: many files, by workers of its own or by a running
server."""

import asyncio
import sys
import time
from pathlib import Path

import click
import msgspec
import uvloop

from modelserver.audio.channels import channel_choice
from modelserver.audio.errors import AudioError
from modelserver.audio.formats import raw_format
from modelserver.batch.batch import Batch
from modelserver.batch.engine import Engine
from modelserver.batch.errors import EngineUnusable
from modelserver.batch.files import SameNames, found, targets
from modelserver.batch.journal import Journal, JournalUnusable
from modelserver.batch.outcome import SUFFIX, WRITERS
from modelserver.cli.engines import engine_of, named, pool_settings_of
from modelserver.cli.options import KEYWORDS, with_endpoints, with_settings
from modelserver.cli.plugins import ENGINES, TOOLS, find_plugin
from modelserver.extras import how_to_install_tools
from modelserver.settings.configuration import KEY_VARIABLE, Configuration
from modelserver.speech.messages import SpeechRequest
from supervisor import counted

_JOURNAL = ".modelserver-journal"
"""Name of the journal in a directory of transcripts."""
_SHOWN_AT_ONCE = 20


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(list(WRITERS)),
    default="text",
    show_default=True,
    help="format of the transcripts",
)
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="directory for FILE.txt (.json, .srt, .vtt)  [default: standard output]",
)
@click.option(
    "--channels",
    default="mix",
    show_default=True,
    help='"mix": all together; "split", or numbers such as 0,1: each separately',
)
@KEYWORDS
@click.option("--encoding", help="encoding of samples without a header, such as s16le or mulaw")
@click.option("--rate", type=int, help="sample rate of samples without a header")
@with_endpoints
@click.option(
    "--server", metavar="URL", help="send the files to a running server, such as http://host:8091"
)
@click.option(
    "--on",
    type=click.Choice(TOOLS[ENGINES]),
    help="use all machines of a Ray cluster, or start Ray on this one",
)
@click.option(
    "--ray-address", metavar="HOST:PORT", help="address of the cluster  [default: as Ray finds it]"
)
@click.option("--key", envvar=KEY_VARIABLE, help="API key for that server")
@click.option(
    "--journal",
    type=click.Path(path_type=Path, dir_okay=False),
    help="file that records finished inputs, so that an interrupted run can resume  "
    f"[default: OUTPUT_DIR/{_JOURNAL}, until all is done]",
)
@with_settings(
    "workers.count", "model", "models_dir", "prepared_dir", "language", "profile", "keywords_file"
)
def transcribe(
    configuration: Configuration,
    files: tuple[str, ...],
    form: str,
    output_dir: Path | None,
    channels: str,
    keywords: tuple[str, ...],
    encoding: str | None,
    rate: int | None,
    endpoint_ms: int,
    max_utterance_s: float,
    server: str | None,
    on: str | None,
    ray_address: str | None,
    key: str | None,
    journal: Path | None,
) -> None:
    """Transcribe audio and video files.

    FILE may be a directory or a glob pattern, too; "-" is standard input. The files are transcribed
    by workers of this command, or by a running server with --server.

    The command continues after a file that cannot be transcribed, and then exits with 1. An
    interrupted run resumes if you repeat it with the same --output-dir.

    Example: modelserver transcribe -f srt -o subtitles talks/*.mp4
    """
    asked = msgspec.structs.replace(
        _asked(channels, encoding, rate, form),
        keywords=keywords,
        endpoint_ms=endpoint_ms,
        max_utterance_s=max_utterance_s,
    )
    if on and server:
        raise click.UsageError("--server and --on exclude each other: choose one")
    if ray_address and not on:
        raise click.UsageError("--ray-address needs --on ray")
    try:
        chosen = found(files)
    except (OSError, EngineUnusable) as error:
        raise click.ClickException(getattr(error, "strerror", None) or str(error)) from error
    if not chosen:
        raise click.ClickException("no audio file was found at the given paths")
    try:
        where = targets(chosen, output_dir, SUFFIX[form])
    except SameNames as error:
        raise click.UsageError(str(error)) from error
    if output_dir is None and len(chosen) > 1 and form in ("srt", "vtt"):
        raise click.UsageError(
            f"{form} output of several files needs --output-dir, or name one file"
        )
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
    if on is not None:
        engine = _engine_on(on, configuration, asked, ray_address)
    else:
        engine = engine_of(configuration, asked, encoding, rate, server, key)
    began = time.monotonic()
    how = msgspec.json.encode((form, asked, *named(configuration).items())).decode()
    try:
        own = output_dir / _JOURNAL if output_dir is not None else None
        with Journal(journal or own, how) as finished:
            batch = Batch(chosen, form, where, finished)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(batch.run(engine))
            if journal is None and not batch.failed:
                finished.forget()
    except (EngineUnusable, JournalUnusable) as error:
        raise click.ClickException(str(error)) from error
    if len(chosen) > 1 and (batch.failed or batch.skipped or sys.stderr.isatty()):
        _tell_the_end(batch, len(chosen), time.monotonic() - began, engine.summary())
    if batch.failed:
        raise SystemExit(1)


def _tell_the_end(batch: Batch, files: int, took_s: float, by: str) -> None:
    """Print totals, and the failures again if they have scrolled away."""
    if len(batch.failed) and files > _SHOWN_AT_ONCE:
        click.echo(f"{len(batch.failed)} could not be transcribed:", err=True)
        for reason in batch.failed:
            click.echo(f"  {reason}", err=True)
    before = f", {batch.skipped} of them before" if batch.skipped else ""
    done = files - len(batch.failed)
    click.echo(f"{done} of {counted(files, 'file')} transcribed{before}", err=True)
    if batch.audio_s:
        where = f", {by}" if by else ""
        click.echo(f"{_duration(batch.audio_s)} of audio in {_duration(took_s)}{where}", err=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def _engine_on(
    name: str, configuration: Configuration, asked: SpeechRequest, address: str | None
) -> Engine:
    added = find_plugin(ENGINES, name)
    if added is None:
        raise click.ClickException(f"--on {name} needs {how_to_install_tools(name)}")
    try:
        make = added.load()
    except ImportError as error:
        raise click.ClickException(
            f"--on {name} needs the package {error.name}: {how_to_install_tools(name)}"
        ) from error
    engine: Engine = make(pool_settings_of(configuration), asked, address)
    return engine


def _asked(channels: str, encoding: str | None, rate: int | None, form: str) -> SpeechRequest:
    try:
        choice = channel_choice(channels)
        raw = None if encoding is None else raw_format(encoding, rate, choice.least)
    except AudioError as error:
        raise click.UsageError(error.message) from error
    return SpeechRequest(
        words=True,
        words_asked_for=form == "json",
        segments=form != "text",  # subtitles, where the model gives no times of words
        channels=channels,
        raw=raw,
    )
