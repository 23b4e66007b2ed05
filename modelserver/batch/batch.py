"""Transcribes all files of one command and writes their transcripts."""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from modelserver.batch.engine import Engine
from modelserver.batch.files import seconds_of
from modelserver.batch.journal import Journal, stamp_of
from modelserver.batch.outcome import WRITERS, Outcome, outcome_of, write_whole

_ASKED_AT_ONCE = 16
_CLEAR_LINE = "\r\x1b[K"
Moved = Callable[[str, float], None]


class Batch:
    """The files of one command. Transcripts go to standard output in the order of the files, or
    each to its own file as soon as it is done."""

    def __init__(
        self, files: list[str], form: str, targets: dict[str, Path], journal: Journal
    ) -> None:
        """Prepare a batch. `targets`: each file's transcript; empty for standard output."""
        self._files, self._targets, self._journal = files, targets, journal
        self._write = WRITERS[form]
        self._expected_s: dict[str, float] = {}
        self._done_s: dict[str, float] = {}
        self._stamps: dict[str, str] = {}
        self.failed: list[str] = []
        """Files that could not be transcribed, each with the reason."""
        self.audio_s = 0.0
        self.skipped = 0
        """Number of files that an earlier call has done."""

    async def run(self, engine: Engine) -> None:
        """Transcribe all files. Raises `EngineUnusable` or `JournalUnusable`."""
        self._stamps = await asyncio.to_thread(_stamps, self._files)
        to_do = [file for file in self._files if not self._done_before(file)]
        self.skipped = len(self._files) - len(to_do)
        if not to_do:
            return
        async with engine:
            self._expected_s = {file: seconds_of(file) for file in to_do}
            slots = asyncio.Semaphore(engine.at_once)
            with click.progressbar(
                length=max(1, round(sum(self._expected_s.values()))),
                label="Seconds transcribed",
                file=sys.stderr,
                hidden=not sys.stderr.isatty(),
                show_pos=True,
            ) as bar:

                def moved(file: str, done_s: float) -> None:
                    self._done_s[file] = done_s
                    # What was expected of a compressed file was a guess.
                    self._expected_s[file] = max(done_s, self._expected_s[file])
                    bar.length = max(1, round(sum(self._expected_s.values())))
                    bar.update(max(0, round(sum(self._done_s.values())) - bar.pos))

                before = _done()
                try:
                    async with asyncio.TaskGroup() as tasks:
                        for file in to_do:
                            turn = asyncio.get_running_loop().create_future()
                            tasks.create_task(self._one(engine, slots, file, moved, before, turn))
                            if not self._targets:
                                before = turn
                except BaseExceptionGroup as errors:
                    raise errors.exceptions[0] from errors

    def _done_before(self, file: str) -> bool:
        target = self._targets.get(file)
        done = self._journal.is_done(file, self._stamps[file])
        return done and (target is None or target.exists())

    async def _one(
        self,
        engine: Engine,
        slots: asyncio.Semaphore,
        file: str,
        moved: Moved,
        before: "asyncio.Future[None]",
        turn: "asyncio.Future[None]",
    ) -> None:
        """Transcribe one file. It is written after `before`; `turn` releases the next one."""
        async with slots:
            note = self._journal.note(file, self._stamps[file])
            outcome = await outcome_of(
                engine, file, self._expected_s[file], note, lambda done_s: moved(file, done_s)
            )
            if outcome.speech is not None:
                moved(file, outcome.speech.duration_s)
        await before
        if self._deliver(outcome):
            note.done()
            await engine.delivered(note)
            self.audio_s += outcome.speech.duration_s if outcome.speech else 0.0
        else:
            self.failed.append(f"{file}: {outcome.error or 'its transcript cannot be written'}")
        turn.set_result(None)

    def _deliver(self, outcome: Outcome) -> bool:
        """Write a transcript; return whether that succeeded."""
        if sys.stderr.isatty():
            click.echo(_CLEAR_LINE, nl=False, err=True)  # of the bar, which is drawn again below
        if outcome.speech is None:
            click.echo(f"{outcome.file}: {outcome.error}", err=True)
            return False
        for warning in outcome.speech.warnings:
            click.echo(f"{outcome.file}: {warning}", err=True)
        text = self._write(outcome)
        target = self._targets.get(outcome.file)
        try:
            if target is None:
                click.echo(text, nl=False)
            else:
                write_whole(target, text)
        except OSError as error:
            where = target or "standard output"
            click.echo(f"{outcome.file}: {where} cannot be written: {error.strerror}", err=True)
            return False
        return True


def _stamps(files: list[str]) -> dict[str, str]:
    """Stamp all files; URLs are asked for several at once."""
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as threads:
        return dict(zip(files, threads.map(stamp_of, files), strict=True))


def _done() -> "asyncio.Future[None]":
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future
