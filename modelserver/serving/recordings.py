"""A long recording on all workers: its samples in pieces, the pieces in the background of whatever
else the workers do, and what was understood of them made one again.

A piece is a part of a background stream, so that a dead worker costs only what it had
recognised since its last result, and a file or a live stream never waits for a piece.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from modelserver.audio.channels import MIX
from modelserver.serving import background
from modelserver.serving.recording_queue import Turn
from modelserver.speech.joining import Joiner, RecognisedPiece, without_words
from modelserver.speech.messages import (
    Caption,
    Decoded,
    DecodedPiece,
    DecodeRequest,
    OnProgress,
    Speech,
    SpeechProgress,
    SpeechRequest,
    SpeechSegment,
)
from modelserver.speech.segments import in_order, in_transcript, main_language
from modelserver.speech.transcript import join_texts
from supervisor import Admission, JobInput, Pool, Spool, SpoolFull, SpoolStore, Stream

_MESSAGE_BYTES = 64_000
"""Two seconds of samples at a time."""

_MOST_HELD_BYTES = 64 * 1024 * 1024
"""Most bytes of samples in memory that wait for the disk."""

_LEAST_PIECE_S = 15.0
_PIECES_EACH = 6


class PieceJournal(Protocol):
    """Results of pieces, stored for the case that all of it has to begin again."""

    async def begin(self, piece_s: float) -> dict[int, RecognisedPiece]:
        """Return the pieces that are known, by number, if they were cut so long."""
        ...

    async def keep(self, number: int, recognised: RecognisedPiece) -> None:
        """Store one more piece."""
        ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A piece whose samples are in the spool."""

    piece: DecodedPiece
    offset: int
    size: int


class _Channel:
    """Text of one channel; of all channels, if they are mixed."""

    def __init__(self, asked: SpeechRequest) -> None:
        self.joiner = Joiner(asked.endpoint_ms / 1000, asked.max_utterance_s)
        self.order: deque[int] = deque()
        """Numbers of its pieces that are not joined yet, as they were cut."""


class Recording:
    """A long recording that is being transcribed."""

    def __init__(
        self,
        pool: Pool,
        spools: SpoolStore,
        workers: int,
        asked: SpeechRequest,
        *,
        piece_s: float,
        on_progress: OnProgress | None = None,
        request_id: str | None = None,
        journal: PieceJournal | None = None,
        writes: bool = False,
        turn: Turn | None = None,
        may_go_on: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Recognise a recording in pieces.

        `workers`: most pieces that are recognised at once; `writes`: texts go through steps, also
        texts that are joined from two pieces' words; `turn`: receives what is left; `may_go_on`:
        awaited before each piece.
        """
        self._pool, self._spools, self._workers = pool, spools, workers
        self._asked, self._piece_s = asked, piece_s
        self._on_progress, self._request_id = on_progress, request_id
        self._journal = journal
        self._turn, self._may_go_on = turn, may_go_on
        self._known: dict[int, RecognisedPiece] = {}
        self._arrived: asyncio.Queue[DecodedPiece | None] = asyncio.Queue()
        self._seen = 0
        self._held_bytes = 0
        """Samples that have come from the worker and are not in the spool yet."""
        self._waiting: asyncio.Queue[_Waiting | None] = asyncio.Queue()
        """None: there are no more; one for each that waits."""
        self._recognised: dict[int, RecognisedPiece] = {}
        self._channels: dict[int | None, _Channel] = {}
        self._joining = asyncio.Lock()
        self._writes = writes
        self._writer: Stream | None = None
        self._written: set[str] = set()
        """Texts that have gone through the steps, on a worker."""
        self._segments: list[SpeechSegment] = []
        self._done_s = 0.0
        self.queued_s = 0.0
        """What it waited for a worker that makes its samples."""

    async def transcribe(self, admission: Admission, audio: JobInput) -> Speech:
        """Transcribe the recording. Raises `supervisor.PoolError`."""
        async with self._spools.open() as spool, contextlib.AsyncExitStack() as held:
            if self._writes:
                self._writer = held.enter_context(
                    self._pool.background_stream(request_id=self._request_id)
                )
                asked = {"keywords": self._asked.keywords, "phrases": self._asked.phrases}
                self._writer.begin({"texts": True, **asked})
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
            for channel, one in self._channels.items():
                await self._ready(one.joiner.finish(), channel)
        # Hours of words are put in order in a thread: the event loop is not held for that.
        return await asyncio.to_thread(self._speech, decoding.result())

    # --- samples --------------------------------------------------------------------------------

    async def _decode(self, admission: Admission, audio: JobInput) -> Decoded:
        request = DecodeRequest(self._piece_s, self._asked)
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
        decoded = msgspec.convert(done.value, Decoded)
        if self._turn is not None:
            self._turn.decoded(decoded.duration_s * decoded.channels)
        return decoded

    def _arrives(self, value: Any) -> None:
        piece = msgspec.convert(value, DecodedPiece)
        if piece.number < self._seen:
            return  # it comes again, from another worker
        if self._held_bytes and self._held_bytes + len(piece.pcm) > _MOST_HELD_BYTES:
            raise SpoolFull(
                "the disk for uploads (spool.directory) takes samples more slowly than they are "
                "decoded"
            )
        self._seen = piece.number + 1
        self._held_bytes += len(piece.pcm)
        self._arrived.put_nowait(piece)

    async def _collect(self, spool: Spool) -> None:
        """Move samples of pieces that wait into the spool, out of memory."""
        while (piece := await self._arrived.get()) is not None:
            channel = self._channels.setdefault(piece.channel, _Channel(self._asked))
            channel.order.append(piece.number)
            known = self._known.pop(piece.number, None)
            if known is not None and (known.begin, known.end) == (piece.begin, piece.end):
                self._held_bytes -= len(piece.pcm)
                await self._take(piece, known)
                continue
            offset = spool.size
            await spool.write(piece.pcm)
            self._held_bytes -= len(piece.pcm)
            bare = msgspec.structs.replace(piece, pcm=b"")
            self._waiting.put_nowait(_Waiting(bare, offset, len(piece.pcm)))
        for _ in range(self._workers):
            self._waiting.put_nowait(None)

    # --- recognition ----------------------------------------------------------------------------

    async def _recognise(self, spool: Spool) -> None:
        """Transcribe one piece after the other, on whatever worker carries this stream."""
        if (waiting := await self._waiting.get()) is None:
            return
        rate = waiting.piece.rate
        with self._pool.background_stream(request_id=self._request_id) as stream:
            background.begin(stream, rate, self._asked, self._asked.profile)
            fed_s = 0.0
            while waiting is not None:
                if self._may_go_on is not None:
                    await self._may_go_on()
                captions = await self._transcribe(stream, spool, waiting, rate)
                await self._understood(waiting.piece, captions, fed_s)
                fed_s += waiting.size / 2 / rate
                waiting = await self._waiting.get()

    async def _transcribe(
        self, stream: Stream, spool: Spool, waiting: _Waiting, rate: int
    ) -> list[Caption]:
        end = waiting.offset + waiting.size
        for at in range(waiting.offset, end, _MESSAGE_BYTES):
            data = await spool.read(at, min(_MESSAGE_BYTES, end - at))
            seconds = len(data) / 2 / rate
            await stream.send(data, seconds)
            if self._turn is not None:
                self._turn.recognised(seconds)
        return await background.end_utterance(stream)

    async def _understood(self, piece: DecodedPiece, captions: list[Caption], fed_s: float) -> None:
        """Times of captions are those of their stream, which has recognised other pieces before."""
        add_s = piece.start - fed_s
        segments = [_segment(caption, add_s, piece.channel) for caption in captions if caption.text]
        recognised = RecognisedPiece(piece.begin, piece.end, piece.paused, segments)
        if self._journal is not None:
            await self._journal.keep(piece.number, recognised)
        await self._take(piece, recognised)

    async def _take(self, piece: DecodedPiece, recognised: RecognisedPiece) -> None:
        self._recognised[piece.number] = recognised
        self._done_s += (recognised.end - recognised.begin) / len(self._channels)
        if self._writes:
            self._written.update(segment.text for segment in recognised.segments)
        self._tell()
        channel = self._channels[piece.channel]
        async with self._joining:
            while channel.order and channel.order[0] in self._recognised:
                following = self._recognised.pop(channel.order.popleft())
                await self._ready(channel.joiner.add(following), piece.channel)

    async def _ready(self, joined: list[SpeechSegment], channel: int | None) -> None:
        segments = [
            msgspec.structs.replace(segment, channel=channel)
            for segment in await self._as_written(joined)
        ]
        self._segments += segments
        if self._asked.partials:
            for segment in segments:
                shown = segment if self._asked.words else without_words(segment)
                self._tell(shown)

    async def _as_written(self, segments: list[SpeechSegment]) -> list[SpeechSegment]:
        """Return the segments with their texts written for readers; changes only segments that were
        joined from words."""
        if self._writer is None:
            return segments
        spoken = [
            segment.text
            for segment in segments
            if segment.words and segment.text not in self._written
        ]
        if not spoken:
            return segments
        await self._writer.send(spoken)
        (texts,) = await self._writer.receive()
        written = dict(zip(spoken, texts, strict=True))
        return [
            msgspec.structs.replace(segment, text=written.get(segment.text, segment.text))
            for segment in segments
        ]

    def _tell(self, segment: SpeechSegment | None = None) -> None:
        if self._on_progress is not None:
            done_s, channels = round(self._done_s, 3), max(1, len(self._channels))
            self._on_progress(SpeechProgress(done_s, None, segment, channels))

    def _speech(self, decoded: Decoded) -> Speech:
        asked, apart = self._asked, self._asked.channels != MIX
        segments = in_order(self._segments) if apart else self._segments
        words = [word for segment in segments for word in segment.words]
        with_words = asked.words and (asked.segments or not apart)
        language = main_language(
            ((segment.language, segment.text) for segment in segments), decoded.language
        )
        segments = in_transcript(segments, language, decoded.language)
        shown = segments if with_words else [without_words(segment) for segment in segments]
        return Speech(
            text=join_texts(segment.text for segment in segments),
            duration_s=decoded.duration_s,
            model=decoded.model,
            language=language,
            words=sorted(words, key=lambda word: word.start) if asked.words else [],
            warnings=decoded.warnings,
            segments=shown if asked.segments or apart else [],
            channels=decoded.channels,
        )


def piece_length(seconds: float, workers: int, most_s: float) -> float:
    """Return a piece length with which the workers finish at about the same time, but not less than
    the shortest useful one."""
    return min(most_s, max(_LEAST_PIECE_S, seconds / (workers * _PIECES_EACH)))


def _segment(caption: Caption, add_s: float, channel: int | None) -> SpeechSegment:
    words = background.words_later(caption, add_s)
    if channel is not None:
        words = [msgspec.structs.replace(word, channel=channel) for word in words]
    return SpeechSegment(
        start=round(caption.start + add_s, 2),
        end=round(caption.end + add_s, 2),
        text=caption.text,
        channel=channel,
        words=words,
        alternatives=caption.alternatives or [],
        language=caption.language,
    )


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first of the errors; the others are cancellations that followed it."""
    first: BaseException = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
