"""A long recording on all workers: its samples in pieces, the pieces in the background of whatever
else the workers do, and what was understood of them made one again.

A piece is a part of a background stream, so that a dead worker costs no more than what it had heard
since its last result, and a file or a live stream never waits for a piece.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from modelserver.serving import background
from modelserver.speech.joining import HeardPiece, Joiner, without_words
from modelserver.speech.messages import (
    Caption,
    Decoded,
    DecodedPiece,
    DecodeRequest,
    Speech,
    SpeechProgress,
    SpeechRequest,
    SpeechSegment,
)
from modelserver.speech.transcript import reader_text
from supervisor import Admission, JobInput, Pool, Spool, SpoolStore, Stream

_MESSAGE_BYTES = 64_000
"""Two seconds of samples at a time."""

_LEAST_PIECE_S = 15.0
_PIECES_EACH = 6

Told = Callable[[SpeechProgress], None]


class PieceJournal(Protocol):
    """What is understood of pieces, kept for the case that all of it has to begin again."""

    async def begin(self, piece_s: float) -> dict[int, HeardPiece]:
        """By number, the pieces that are known, if they were cut so long."""
        ...

    async def keep(self, number: int, heard: HeardPiece) -> None:
        """One more."""
        ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A piece whose samples are in the spool."""

    piece: DecodedPiece
    offset: int
    size: int


class Recording:
    """One of them, on its way."""

    def __init__(
        self,
        pool: Pool,
        spools: SpoolStore,
        workers: int,
        asked: SpeechRequest,
        *,
        piece_s: float,
        told: Told | None = None,
        request_id: str | None = None,
        journal: PieceJournal | None = None,
        writes: bool = False,
    ) -> None:
        """`workers`: how many pieces are heard at once, at the most; `writes`: texts go through
        steps, those that are made of two pieces' words, too."""
        self._pool, self._spools, self._workers = pool, spools, workers
        self._asked, self._piece_s = asked, piece_s
        self._told, self._request_id = told, request_id
        self._journal = journal
        self._known: dict[int, HeardPiece] = {}
        self._arrived: asyncio.Queue[DecodedPiece | None] = asyncio.Queue()
        self._seen = 0
        self._waiting: asyncio.Queue[_Waiting | None] = asyncio.Queue()
        """None: there are no more; one for each that waits."""
        self._heard: dict[int, HeardPiece] = {}
        self._joiner = Joiner()
        self._joining = asyncio.Lock()
        self._writes = writes
        self._writer: Stream | None = None
        self._written: set[str] = set()
        """Texts that have gone through the steps, on a worker."""
        self._next = 0
        self._segments: list[SpeechSegment] = []
        self._done_s = 0.0
        self.queued_s = 0.0
        """What it waited for a worker that makes its samples."""

    async def transcribe(
        self, admission: Admission, audio: JobInput, timeout_s: float | None
    ) -> Speech:
        """All of it. Raises `supervisor.PoolError`, or `TimeoutError` where it takes longer."""
        async with (
            asyncio.timeout(timeout_s),
            self._spools.open() as spool,
            contextlib.AsyncExitStack() as held,
        ):
            if self._writes:
                self._writer = held.enter_context(
                    self._pool.background_stream(request_id=self._request_id)
                )
                self._writer.begin({"texts": True})
            if self._journal is not None:
                self._known = await self._journal.begin(self._piece_s)
            try:
                async with asyncio.TaskGroup() as tasks:
                    decoding = tasks.create_task(self._decode(admission, audio))
                    tasks.create_task(self._collect(spool))
                    for _ in range(self._workers):
                        tasks.create_task(self._recognise(spool))
            except BaseExceptionGroup as errors:
                raise _first(errors) from errors
            await self._ready(self._joiner.finish())
        return self._speech(decoding.result())

    # --- samples --------------------------------------------------------------------------------

    async def _decode(self, admission: Admission, audio: JobInput) -> Decoded:
        request = DecodeRequest(
            self._piece_s,
            self._asked.longest_audio_s,
            self._asked.raw,
            self._asked.phrases,
            self._asked.profile,
        )
        done = await admission.run(
            msgspec.to_builtins(request),
            audio,
            on_progress=self._arrives,
            request_id=self._request_id,
        )
        self.queued_s = done.queued_s
        self._arrived.put_nowait(None)
        if isinstance(audio, Spool):
            audio.close()  # its samples are enough from here on
        return msgspec.convert(done.value, Decoded)

    def _arrives(self, value: Any) -> None:
        piece = msgspec.convert(value, DecodedPiece)
        if piece.number >= self._seen:  # or it comes again, from another worker
            self._seen = piece.number + 1
            self._arrived.put_nowait(piece)

    async def _collect(self, spool: Spool) -> None:
        """Samples wait in the spool, and not in our own memory."""
        while (piece := await self._arrived.get()) is not None:
            known = self._known.pop(piece.number, None)
            if known is not None and (known.begin, known.end) == (piece.begin, piece.end):
                await self._take(piece.number, known)
                continue
            offset = spool.size
            await spool.write(piece.pcm)
            bare = msgspec.structs.replace(piece, pcm=b"")
            self._waiting.put_nowait(_Waiting(bare, offset, len(piece.pcm)))
        for _ in range(self._workers):
            self._waiting.put_nowait(None)

    # --- recognition ----------------------------------------------------------------------------

    async def _recognise(self, spool: Spool) -> None:
        """One piece after the other, on whatever worker carries this stream."""
        if (waiting := await self._waiting.get()) is None:
            return
        rate = waiting.piece.rate
        asked = self._asked
        with self._pool.background_stream(request_id=self._request_id) as stream:
            background.begin(stream, rate, asked.alternatives, asked.phrases, asked.profile)
            fed_s = 0.0
            while waiting is not None:
                captions = await self._hear(stream, spool, waiting, rate)
                await self._understood(waiting.piece, captions, fed_s)
                fed_s += waiting.size / 2 / rate
                waiting = await self._waiting.get()

    async def _hear(
        self, stream: Stream, spool: Spool, waiting: _Waiting, rate: int
    ) -> list[Caption]:
        end = waiting.offset + waiting.size
        for at in range(waiting.offset, end, _MESSAGE_BYTES):
            data = await spool.read(at, min(_MESSAGE_BYTES, end - at))
            await stream.send(data, len(data) / 2 / rate)
        return await background.end_utterance(stream)

    async def _understood(self, piece: DecodedPiece, captions: list[Caption], fed_s: float) -> None:
        """Times of captions are those of their stream, which has heard other pieces before."""
        add_s = piece.start - fed_s
        segments = [_segment(caption, add_s) for caption in captions if caption.text]
        heard = HeardPiece(piece.begin, piece.end, piece.paused, segments)
        if self._journal is not None:
            await self._journal.keep(piece.number, heard)
        await self._take(piece.number, heard)

    async def _take(self, number: int, heard: HeardPiece) -> None:
        self._heard[number] = heard
        self._done_s += heard.end - heard.begin
        if self._writes:
            self._written.update(segment.text for segment in heard.segments)
        self._tell(SpeechProgress(round(self._done_s, 3)))
        async with self._joining:
            while (following := self._heard.pop(self._next, None)) is not None:
                self._next += 1
                await self._ready(self._joiner.add(following))

    async def _ready(self, joined: list[SpeechSegment]) -> None:
        segments = await self._as_written(joined)
        self._segments += segments
        if self._asked.partials:
            for segment in segments:
                shown = segment if self._asked.words else without_words(segment)
                self._tell(SpeechProgress(round(self._done_s, 3), segment=shown))

    async def _as_written(self, segments: list[SpeechSegment]) -> list[SpeechSegment]:
        """Those that were made anew, of words, go through the steps."""
        if self._writer is None:
            return segments
        spoken = [segment.text for segment in segments if segment.text not in self._written]
        if not spoken:
            return segments
        await self._writer.send(spoken)
        (texts,) = await self._writer.receive()
        written = dict(zip(spoken, texts, strict=True))
        return [
            msgspec.structs.replace(segment, text=written.get(segment.text, segment.text))
            for segment in segments
        ]

    def _tell(self, progress: SpeechProgress) -> None:
        if self._told is not None:
            self._told(progress)

    def _speech(self, decoded: Decoded) -> Speech:
        asked, segments = self._asked, self._segments
        shown = segments if asked.words else [without_words(segment) for segment in segments]
        return Speech(
            text=reader_text(segment.text for segment in segments),
            duration_s=decoded.duration_s,
            model=decoded.model,
            language=decoded.language,
            words=[w for segment in segments for w in segment.words] if asked.words else [],
            warnings=decoded.warnings,
            segments=shown if asked.segments else [],
        )


def piece_length(seconds: float, workers: int, most_s: float) -> float:
    """So that the workers are done at about the same time, and no piece is shorter than makes
    sense."""
    return min(most_s, max(_LEAST_PIECE_S, seconds / (workers * _PIECES_EACH)))


def _segment(caption: Caption, add_s: float) -> SpeechSegment:
    return SpeechSegment(
        start=round(caption.start + add_s, 2),
        end=round(caption.end + add_s, 2),
        text=caption.text,
        words=background.words_later(caption, add_s),
        alternatives=caption.alternatives or [],
    )


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first; the others were told to stop for it."""
    first: BaseException = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
