"""Workers of this command itself, used without a server."""

import asyncio
import contextlib
import functools
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from modelserver.batch.engine import Engine
from modelserver.batch.errors import EngineUnusable, NotTranscribed
from modelserver.batch.files import STDIN
from modelserver.batch.journal import Note
from modelserver.batch.remote import is_url, opened, read
from modelserver.serving.keywords import KeywordsUnreadable, read_keywords
from modelserver.serving.service import SpeechService
from modelserver.serving.transcription import Transcription
from modelserver.settings import Settings
from modelserver.speech.messages import Speech, SpeechProgress, SpeechRequest
from supervisor import FileInput, JobInput, NotReady, PoolError


class OwnPool(Engine):
    """An engine with workers of its own, for one command."""

    def __init__(self, settings: Settings, asked: SpeechRequest) -> None:
        # A command is over before its model would be prepared.
        self._service = SpeechService(msgspec.structs.replace(settings, prepare="never"))
        self._asked = asked
        self.at_once = 1

    async def __aenter__(self) -> "OwnPool":
        name = self._service.models.default.settings.keywords_file
        try:
            if name:
                read_keywords(Path(name))
        except KeywordsUnreadable as error:
            # A server serves without them meanwhile; a command would leave them out of its result.
            raise EngineUnusable(f"keywords_file: {error}") from error
        await self._service.__aenter__()
        try:
            await self._service.models.default.loaded()
        except NotReady as error:
            # A server waits for its model to come; a command says why there is none.
            await self._service.__aexit__()
            raise EngineUnusable(error.message) from error
        self.at_once = self._service.models.default.slots
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._service.__aexit__(*exception)

    async def transcribe(
        self, file: str, expected_s: float, note: Note | None, moved: Callable[[float], None]
    ) -> Speech:
        """See `Engine`."""
        try:
            if is_url(file):
                return await self._from_elsewhere(file, moved)
            if file == STDIN:
                return await self._from_pipe(sys.stdin.buffer.read, moved)
            with await asyncio.to_thread(Path(file).open, "rb") as own:
                if stat.S_ISREG(os.fstat(own.fileno()).st_mode):
                    return await self._recognise(FileInput(own), expected_s, moved)
                return await self._from_pipe(own.read, moved)
        except PoolError as error:
            raise NotTranscribed(error.message) from error

    async def transcribe_bytes(self, content: bytes, expected_s: float) -> Speech:
        """Transcribe a file that is in memory. Raises `NotTranscribed`."""
        try:
            async with self._service.open_spool() as spool:
                await spool.write(content)
                return await self._recognise(spool, expected_s, lambda _: None)
        except PoolError as error:
            raise NotTranscribed(error.message) from error

    async def _from_pipe(
        self, read_some: Callable[[int], bytes], moved: Callable[[float], None]
    ) -> Speech:
        async with self._service.open_spool() as spool:
            while block := await asyncio.to_thread(read_some, 1 << 20):
                await spool.write(block)
            return await self._recognise(spool, 0.0, moved)

    async def _from_elsewhere(self, url: str, moved: Callable[[float], None]) -> Speech:
        with contextlib.ExitStack() as held:
            there = await asyncio.to_thread(lambda: held.enter_context(opened(url)))
            return await self._from_pipe(functools.partial(read, there, url), moved)

    async def _recognise(
        self, audio: JobInput, expected_s: float, moved: Callable[[float], None]
    ) -> Speech:
        def on_progress(progress: SpeechProgress) -> None:
            moved(progress.done_s)

        service = self._service
        async with service.admit(service.models.default, patient=True) as admission:
            # What comes through a pipe is taken for plain samples.
            admission.resize(expected_s or audio.size / 32_000, known=False)
            done = await Transcription(
                service, service.models.default, self._asked, on_progress=on_progress
            ).run(admission, audio)
            return done.speech
