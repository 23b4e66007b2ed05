"""Audio of any kind as it comes, in pieces of any size, to 16-bit PCM at the recogniser's rate. In
the workers.

FFmpeg reads when it likes, and blocks until there is something: so it has a thread, which runs only
while it is waited for. Nothing is ever done at the same time as anything else.
"""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from modelserver.audio.channels import ChannelChoice
from modelserver.audio.errors import AudioError, not_audio
from modelserver.audio.formats import ENCODINGS, RawFormat
from modelserver.audio.probe import LOOK_BYTES, what_it_is
from modelserver.audio.riff import (
    FORMS,
    HEADER_LIMIT_BYTES,
    LAYOUT_BYTES,
    ArrivingHeader,
    Piece,
    in_containers,
    raw_of,
)
from modelserver.worker.reader import AudioReader

_ENDLESS = 1 << 62
_MAGIC_BYTES = 16
"""Bytes by which any kind of file is recognised."""
_OPENING_BYTES = 16_384
"""Bytes within which FFmpeg has to find out what a stream is: a few seconds of Opus."""
_MOST_SILENCE_BYTES = 256 * 1024
"""Most bytes of zeros at the beginning that are held back until the format of what follows is
known."""
_TAIL_BYTES = 256 * 1024
_BLOCK_BYTES = 8000
"""Bytes of a quarter of a second, passed on at once if available."""


_BEGINNINGS = (
    (b"RIFF", 0, b"WAVE", 8),
    (b"RF64", 0, b"WAVE", 8),
    (b"BW64", 0, b"WAVE", 8),
    (b"ftyp", 4, b"", 0),
    (b"FORM", 0, b"AIF", 8),
    (b"caff", 0, b"", 0),
    (b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb", 0, b"", 0),  # Wave64
    (b"0&\xb2u\x8ef\xcf\x11\xa6\xd9\x00\xaa\x00b\xcel", 0, b"", 0),  # ASF
    (b"TTA1", 0, b"", 0),
)
"""Beginnings of files behind which FFmpeg does not look for another one: bytes at two positions."""


def begins_recording(data: bytes) -> bool:
    """Return whether a file of these kinds begins with `data`."""
    return any(
        data.startswith(one, at) and data.startswith(other, there)
        for one, at, other, there in _BEGINNINGS
    )


class LiveAudio:
    """Feed it, and take what there is with `blocks`; in turn, from one thread."""

    def __init__(
        self,
        rate: int,
        *,
        raw: RawFormat | None = None,
        channels: ChannelChoice | None = None,
        restarts: bool | None = None,
    ) -> None:
        """Decode a live stream.

        `raw`: the format of samples without a container, or after its header; `restarts`: whether
        another recording may follow; by default, if there is a container.
        """
        self._rate, self._channels = rate, channels or ChannelChoice()
        self._raw: RawFormat | None = None
        self._fed_bytes = 0
        self._tail = bytearray()
        """What came last of raw samples, as far as it may not have been decoded yet."""
        self._head: bytearray | None = None
        """Of what may be a WAV file, until that is known."""
        self._header = ArrivingHeader()
        self._next = bytearray()
        """Of the recording after this one, on the same stream."""
        self._earlier_warnings: list[str] = []
        self._flushing = self._flushed = False
        self._left: int | None = None
        """Bytes of samples that a WAV file has still to come, if it says so."""
        self._source: _Plain | _Decoding = _Plain()
        self._restarts = raw is None if restarts is None else restarts
        if raw is None:
            self._head = bytearray()
        else:
            self._become(raw)

    @property
    def raw(self) -> RawFormat | None:
        """Format of the samples; None if later bytes mean nothing without earlier ones: in a
        container, other than a WAV file past its header."""
        return self._raw

    @property
    def warnings(self) -> list[str]:
        """Warnings about the stream, once it has ended."""
        return list(dict.fromkeys([*self._earlier_warnings, *self._source.warnings]))

    def feed(self, data: bytes) -> None:
        """Accept the next bytes. A recording that begins with `data` replaces the one before, as
        when a recorder was started again."""
        if self._next or (self._begun and begins_recording(data)):
            self._next += data
            return
        if self._head is not None:
            self._head += data
            if self._may_be_wav(self._head):
                return
            data, self._head = bytes(self._head), None
        if self._left is not None:
            data, rest = data[: self._left], data[self._left :]
            self._left -= len(data)
            if begins_recording(rest):
                self._next += rest
        self._source.feed(data)
        if self._raw is not None:
            self._fed_bytes += len(data)
            self._tail += data
            if len(self._tail) > _TAIL_BYTES:
                self._forget_decoded()

    @property
    def _begun(self) -> bool:
        """A container has begun; samples that were said to be such have no beginning."""
        return self._restarts and self._head is None

    def end(self) -> None:
        """End the stream."""
        if self._head is not None:
            self._become(None)
            self._source.feed(bytes(self._head))
            self._head = None
        if not self._flushed or self._has_frames:
            self._source.feed(None)

    def flush(self) -> None:
        """Let everything come out that was fed of raw samples: a decoder holds back what is less
        than a packet. In a container nothing can be done about that."""
        known = self._raw is not None and self._raw.encoding in ENCODINGS
        if known and self._has_frames and not isinstance(self._source, _Plain):
            self._source.feed(None)
            self._flushing = self._flushed = True

    @property
    def _has_frames(self) -> bool:
        """The decoder was given raw samples, at least one of every channel."""
        return self._raw is not None and self._fed_bytes >= self._raw.frame_bytes

    def _start_decoder_again(self) -> None:
        assert self._raw is not None
        self._earlier_warnings += self._source.warnings
        self._source.close()
        part_of_a_frame = self._fed_bytes % self._raw.frame_bytes
        del self._tail[: len(self._tail) - part_of_a_frame]
        self._become(self._raw)
        self._source.feed(bytes(self._tail))
        self._fed_bytes = part_of_a_frame
        self._flushing = False

    def blocks(self) -> Iterator[bytes]:
        """Yield samples until more input is needed. Raises `AudioError`."""
        yield from self._source.blocks()
        if self._flushing:
            self._start_decoder_again()
        while self._next:
            self._source.feed(None)
            try:
                yield from self._source.blocks()
            except AudioError as error:
                self._earlier_warnings.append(error.message)
            self._earlier_warnings += self._source.warnings
            self._source.close()
            data, self._next = bytes(self._next), bytearray()
            self._start_container()
            self.feed(data)
            yield from self._source.blocks()

    def _start_container(self) -> None:
        self._raw, self._left = None, None
        self._fed_bytes = 0
        self._tail.clear()
        self._head, self._header = bytearray(), ArrivingHeader()
        self._source = _Plain()

    def rest(self) -> bytes:
        """Return the raw samples that were fed and not decoded yet."""
        if self._raw is None:
            return b""
        self._forget_decoded()
        return bytes(self._tail)

    def _forget_decoded(self) -> None:
        assert self._raw is not None
        out = self._source.frames_read * self._raw.frame_bytes
        del self._tail[: len(self._tail) - (self._fed_bytes - out)]

    def close(self) -> None:
        """Close the decoder."""
        self._source.close()

    def _become(self, raw: RawFormat | None) -> None:
        self._raw = raw
        plain = raw == RawFormat("s16le", self._rate, 1)
        self._source = _Plain() if plain else _Decoding(self._rate, raw, self._channels)

    def _may_be_wav(self, head: bytearray) -> bool:
        """Return whether the bytes so far may be the incomplete header of a WAV file. Once it is
        complete, the samples follow directly: FFmpeg would wait for 64 kB of them."""
        if len(head) < _MAGIC_BYTES and FORMS[0].startswith(head[:4]):
            return True
        if head[:4] in FORMS and len(head) < HEADER_LIMIT_BYTES:
            if (wav := self._header.look(head)) is None:
                return True
            sound = bytes(head[wav.data_at :]).lstrip(b"\0")
            fmt, early = in_containers(wav, bytes(head[wav.data_at :]))
            silent = len(head) - wav.data_at - len(sound)
            if fmt != wav.fmt and len(sound) < LAYOUT_BYTES and silent < _MOST_SILENCE_BYTES:
                return True
            self._become(raw_of(replace(wav, fmt=fmt)))
            if self._raw is not None:
                del head[: wav.data_at - early]
                self._left = wav.declared
            return False
        self._become(None)
        return False


class _Plain:
    """Source of samples that need no conversion."""

    warnings: list[str] = []  # noqa: RUF012 - there never are any

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.frames_read = 0

    def feed(self, data: bytes | None) -> None:
        self._bytes += data or b""

    def blocks(self) -> Iterator[bytes]:
        while whole := min(len(self._bytes) & ~1, _BLOCK_BYTES):
            block = bytes(self._bytes[:whole])
            del self._bytes[:whole]
            self.frames_read += whole // 2
            yield block

    def close(self) -> None:
        self._bytes.clear()


class _Decoding:
    """FFmpeg in a thread of its own."""

    def __init__(self, rate: int, raw: RawFormat | None, channels: ChannelChoice) -> None:
        self._pipe = _Pipe()
        self._rate, self._raw, self._channels = rate, raw, channels
        self._reader: _LiveReader | None = None
        self._thread: threading.Thread | None = None
        self._ours = threading.Semaphore(0)
        self._pcm = bytearray()
        self._over = False
        self._error: Exception | None = None
        self._pipe.wait = self._hand_over

    @property
    def warnings(self) -> list[str]:
        return self._reader.warnings if self._reader is not None else []

    @property
    def frames_read(self) -> int:
        return self._reader.frames_read if self._reader is not None else 0

    def feed(self, data: bytes | None) -> None:
        if data is None:
            self._pipe.ended = True
        else:
            self._pipe.bytes += data

    def blocks(self) -> Iterator[bytes]:
        while not self._over:
            hungry = self._run()
            if self._pcm:
                block = bytes(self._pcm)
                self._pcm.clear()
                yield block
            if self._error is not None:
                raise self._error
            if hungry:
                return

    def close(self) -> None:
        if self._thread is not None and not self._over:
            self._pipe.ended = True
            self._pipe.bytes.clear()
            while not self._over:
                self._run()

    # The two threads take turns: one waits while the other runs.

    def _run(self) -> bool:
        """Let the decoder run. Return True if it needs more input."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._decode, name="decoder", daemon=True)
            self._thread.start()
        else:
            self._pipe.turn.release()
        self._ours.acquire()
        return self._pipe.hungry

    def _hand_over(self, *, hungry: bool) -> None:
        self._pipe.hungry = hungry
        self._ours.release()
        self._pipe.turn.acquire()

    def _decode(self) -> None:
        try:
            reader = _LiveReader(self._pipe, self._rate, self._raw, self._channels)
            self._reader = reader
            if len(reader.numbers) > 1:
                raise AudioError("bad_parameter", "a live stream has one channel: name one")
            for block in reader.samples():
                self._pcm += block
                if len(self._pcm) >= _BLOCK_BYTES:
                    self._hand_over(hungry=False)
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            self._error = error
        self._over = True
        self._pipe.hungry = False
        self._ours.release()


class _Pipe:
    """Source of the decoder: bytes that have arrived; reading waits for more."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.ended = False
        self.hungry = False
        self.turn = threading.Semaphore(0)
        self.wait: Any = None

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes without consuming them, or fewer at the end."""
        while len(self.bytes) < size and not self.ended:
            self._wait()
        return bytes(self.bytes[:size])

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes, in order."""
        while not self.bytes and not self.ended:
            self._wait()
        data = bytes(self.bytes[:size])
        del self.bytes[:size]
        return data

    def _wait(self) -> None:
        self.wait(hungry=True)


_NO_BEGINNING = (
    "this is not the beginning of an audio stream: send what the recorder gave first (with the "
    "header of its WebM, Ogg or MP4) before the rest, or say what samples without a header are "
    "(encoding=s16le&rate=16000)"
)


def _goes_on(head: bytes) -> bool:
    """Return whether bytes are a later part of a WebM, Ogg or MP4 stream."""
    return (
        head[:4] == b"\x1f\x43\xb6\x75"  # a cluster of Matroska
        or (head[:4] == b"OggS" and len(head) > 5 and not head[5] & 2)
        or head[4:8] in (b"moof", b"mdat", b"sidx", b"styp", b"mfra")
    )


class _LiveReader(AudioReader):
    """Reader of a source that cannot be sought, and has not ended yet."""

    def __init__(
        self, pipe: _Pipe, rate: int, raw: RawFormat | None, channels: ChannelChoice
    ) -> None:
        self._pipe, self._raw_said = pipe, raw
        super().__init__(pipe, _ENDLESS, rate, raw=raw, channels=channels)

    def samples(self) -> Iterator[bytes]:
        """Yield blocks of samples as they arrive. Raises `AudioError`."""
        try:
            for block in self._blocks():
                yield block[0]
            if self._raw is None and not self._seconds:
                raise not_audio(
                    "nothing could be decoded as it arrived: a file whose index comes last has to "
                    "be sent as a file"
                )
        finally:
            self.close()

    def _read_head(self) -> bytes:
        head = self._pipe.peek(_MAGIC_BYTES)
        if not head:
            raise not_audio("there was no audio")
        if self._raw_said is None and _goes_on(head):
            raise not_audio(_NO_BEGINNING)
        return head

    def _more_options(self) -> dict[str, str]:
        return {"formatprobesize": str(_OPENING_BYTES)}

    def _refusal(self) -> AudioError:
        known = what_it_is(self._pipe.peek(LOOK_BYTES))
        return known or not_audio(_NO_BEGINNING)

    def _find_pieces(self) -> list[Piece]:
        return [Piece(0, _ENDLESS)]

    def _window(self, piece: Piece) -> Any:
        return self._pipe

    def _some_samples(self, piece: Piece, size: int) -> bytes:
        return self._pipe.peek(min(size, _BLOCK_BYTES))

    def _without_header(self, piece: Piece) -> Piece | None:
        return None
