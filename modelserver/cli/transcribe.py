"""`modelserver transcribe FILE...`: the same pool of workers, without HTTP."""

import asyncio
import glob
import os
import stat
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click
import msgspec
import uvloop

from modelserver.audio.channels import channel_choice
from modelserver.audio.errors import AudioError
from modelserver.audio.formats import raw_format
from modelserver.audio.look import Gate
from modelserver.audio.riff import HEADER_LIMIT_BYTES
from modelserver.cli.options import with_settings
from modelserver.logs import configure_logs
from modelserver.serving.service import SpeechService
from modelserver.serving.transcribing import Transcribing
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration
from modelserver.speech.messages import Speech, SpeechProgress, SpeechRequest
from modelserver.speech.subtitles import srt, vtt
from supervisor import FileInput, JobInput, NotReady, PoolError

STDIN = "-"

_SUFFIXES = (
    "wav wave w64 rf64 flac mp3 mp2 aac m4a m4b mp4 mov 3gp 3g2 ogg oga opus webm mkv mka amr awb "
    "aif aiff aifc caf wma wmv asf avi flv ts mpg mpeg au snd ac3 wv tta ape spx"
)
_AUDIO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
"""By which files in a directory are chosen; a file that is named is taken whatever its name."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One file's transcript, or why there is none."""

    file: str
    speech: Speech | None = None
    error: str | None = None


class _Document(msgspec.Struct):
    file: str
    speech: Speech


def _as_json(outcome: Outcome) -> str:
    assert outcome.speech is not None
    return msgspec.json.encode(_Document(outcome.file, outcome.speech)).decode() + "\n"


_WRITERS: dict[str, Callable[[Outcome], str]] = {
    "text": lambda outcome: f"{outcome.speech.text}\n" if outcome.speech else "",
    "json": _as_json,
    "srt": lambda outcome: srt(outcome.speech.words) if outcome.speech else "",
    "vtt": lambda outcome: vtt(outcome.speech.words) if outcome.speech else "",
}
_SUFFIX = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "-f", "--format", "form", type=click.Choice(list(_WRITERS)), default="text", show_default=True
)
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="write FILE.txt (.json, .srt, .vtt) there instead of to standard output",
)
@click.option(
    "--channels",
    default="mix",
    show_default=True,
    help='"mix" all, "split" them, or numbers such as 0,1: each is heard by itself',
)
@click.option("--encoding", help="of samples without a header, such as s16le, mulaw")
@click.option("--rate", type=int, help="of samples without a header, a second")
@with_settings(
    "workers.count", "model", "models_dir", "prepared_dir", "language", "allocator", "warmup"
)
def transcribe(
    configuration: Configuration,
    files: tuple[str, ...],
    form: str,
    output_dir: Path | None,
    channels: str,
    encoding: str | None,
    rate: int | None,
) -> None:
    """Write down what is said in audio files and videos of any kind, in those of a directory, or in
    those that fit a pattern ("-" is standard input).

    Goes on after a file that cannot be transcribed, and exits with 1 if there was one.
    """
    asked = _asked(channels, encoding, rate)
    if not (files := tuple(found(files))):
        raise click.ClickException("there is no audio file in what was named")
    settings = configuration.settings
    if "warmup" not in configuration.origins:  # it takes longer than a few files do
        settings = msgspec.structs.replace(settings, warmup="none")
    quiet = msgspec.structs.replace(settings.log, level="warning")
    configure_logs(quiet if settings.log.level == "info" else settings.log)
    targets = _targets(files, output_dir, _SUFFIX[form])
    if output_dir is None and len(files) > 1 and form in ("srt", "vtt"):
        raise click.UsageError(
            f"the {form} of several files is no {form} file: give --output-dir, or one file"
        )
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        failed = runner.run(_Transcription(settings, files, asked, form, targets).run())
    if len(files) > 1 and (failed or sys.stderr.isatty()):
        click.echo(f"{len(files) - failed} of {len(files)} files transcribed", err=True)
    if failed:
        raise SystemExit(1)


def _asked(channels: str, encoding: str | None, rate: int | None) -> SpeechRequest:
    try:
        choice = channel_choice(channels)
        raw = None if encoding is None else raw_format(encoding, rate, choice.least)
    except AudioError as error:
        raise click.UsageError(error.message) from error
    return SpeechRequest(words=True, channels=channels, raw=raw)


class _Transcription:
    """All files of one call, at most as many at once as there are workers, written in order."""

    def __init__(
        self,
        settings: Settings,
        files: tuple[str, ...],
        asked: SpeechRequest,
        form: str,
        targets: dict[str, Path],
    ) -> None:
        """`targets`: where each file's transcript goes; empty for standard output."""
        # A command is over before it would be prepared.
        self._settings = msgspec.structs.replace(settings, prepare="never")
        self._files = files
        self._asked = asked
        self._write = _WRITERS[form]
        self._targets = targets
        self._expected_s: dict[str, float] = {}
        self._done_s: dict[str, float] = {}

    async def run(self) -> int:
        """Returns how many files failed."""
        failed = 0
        async with SpeechService(self._settings) as service:
            await self._wait_ready(service)
            places = asyncio.Semaphore(service.default.slots)
            self._expected_s = {file: _seconds(file) for file in self._files}
            with click.progressbar(
                length=max(1, round(sum(self._expected_s.values()))),
                label="Transcribing",
                file=sys.stderr,
                hidden=not sys.stderr.isatty(),
                show_pos=True,
            ) as bar:
                tasks = [
                    asyncio.create_task(
                        self._one(service, places, file, lambda: bar.update(self._advance(bar.pos)))
                    )
                    for file in self._files
                ]
                for task in tasks:
                    failed += self._deliver(await task)
        return failed

    async def _wait_ready(self, service: SpeechService) -> None:
        """A server waits for its model to come; a command says why there is none."""
        try:
            await service.default.loaded()
        except NotReady as error:
            raise click.ClickException(error.message) from error

    def _advance(self, at: int) -> int:
        return max(0, round(sum(self._done_s.values())) - at)

    async def _one(
        self,
        service: SpeechService,
        places: asyncio.Semaphore,
        file: str,
        moved: Callable[[], None],
    ) -> Outcome:
        def progress(far: SpeechProgress) -> None:
            self._done_s[file] = far.done_s
            moved()

        async with places:
            try:
                speech = await self._transcribe(service, file, progress)
            except PoolError as error:
                return Outcome(file, error=error.message)
            except OSError as error:
                return Outcome(file, error=error.strerror or str(error))
        progress(SpeechProgress(speech.duration_s))
        return Outcome(file, speech)

    async def _transcribe(
        self, service: SpeechService, file: str, progress: Callable[[SpeechProgress], None]
    ) -> Speech:
        async def recognise(audio: JobInput) -> Speech:
            async with service.admit(service.default, patient=True) as place:
                # What comes through a pipe is taken for plain samples.
                expected_s = self._expected_s[file] or audio.size / 32_000
                place.admission.resize(expected_s, known=False)
                done = await Transcribing(service, self._asked, told=progress).run(place, audio)
                return done.speech

        if file != STDIN:
            with await asyncio.to_thread(Path(file).open, "rb") as opened:
                if stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                    return await recognise(FileInput(opened))
                return await self._from_pipe(service, opened, recognise)
        return await self._from_pipe(service, sys.stdin.buffer, recognise)

    async def _from_pipe(
        self,
        service: SpeechService,
        pipe: IO[bytes],
        recognise: Callable[[JobInput], Awaitable[Speech]],
    ) -> Speech:
        async with service.open_spool() as spool:
            while block := await asyncio.to_thread(pipe.read, 1 << 20):
                await spool.write(block)
            return await recognise(spool)

    def _deliver(self, outcome: Outcome) -> bool:
        """Write it; True if there is nothing to write."""
        if outcome.speech is None:
            click.echo(f"{outcome.file}: {outcome.error}", err=True)
            return True
        for warning in outcome.speech.warnings:
            click.echo(f"{outcome.file}: {warning}", err=True)
        text = self._write(outcome)
        target = self._targets.get(outcome.file)
        try:
            if target is None:
                click.echo(text, nl=False)
            else:
                target.write_text(text, encoding="utf-8")
        except OSError as error:
            where = target or "standard output"
            click.echo(f"{outcome.file}: {where} cannot be written: {error.strerror}", err=True)
            return True
        return False


def _targets(files: tuple[str, ...], directory: Path | None, suffix: str) -> dict[str, Path]:
    """Where each transcript goes. Where two would have the same name, all keep their files' own
    suffixes, or else their directories."""
    if directory is None:
        return {}
    ways: tuple[Callable[[Path], str], ...] = (
        lambda path: path.stem,
        lambda path: path.name,
        lambda path: "_".join(part for part in path.parts if part not in ("/", "..")),
    )
    paths = {file: Path("stdin" if file == STDIN else file) for file in files}
    for way in ways:
        names = {file: f"{way(path)}{suffix}" for file, path in paths.items()}
        if len(set(names.values())) == len(names):
            return {file: directory / name for file, name in names.items()}
    raise click.UsageError("two of the files would have their transcripts under the same name")


def _seconds(file: str) -> float:
    """How long it is likely to be: what the first bytes say, or what its size lets guess; 0 where
    it cannot be read (the worker says why)."""
    if file == STDIN or not Path(file).is_file():  # what is read from a pipe is gone
        return 0.0
    try:
        size = Path(file).stat().st_size
        with Path(file).open("rb") as opened:
            gate = Gate(float("inf"), length=size)
            gate.feed(opened.read(HEADER_LIMIT_BYTES))
        return gate.estimate(size)
    except (OSError, AudioError):
        return 0.0


def found(arguments: Iterable[str]) -> list[str]:
    """The files that are meant: those of a directory, below it too, that may be audio by their
    names; those that fit a pattern; and all others as they are."""
    files: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if argument != STDIN and path.is_dir():
            inside = (file for file in sorted(path.rglob("*")) if file.is_file())
            files += [str(file) for file in inside if file.suffix.lower() in _AUDIO_SUFFIXES]
        elif not path.exists() and any(letter in argument for letter in "*?["):
            files += sorted(glob.glob(argument, recursive=True)) or [argument]  # noqa: PTH207
        else:
            files.append(argument)
    return list(dict.fromkeys(files))
