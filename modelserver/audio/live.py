"""Audio of any kind as it comes, in pieces of any size, to 16-bit PCM at the recogniser's rate. In
the workers.

FFmpeg reads when it likes, and blocks until there is something: so it has a thread, which runs only
while it is waited for. Nothing is ever done at the same time as anything else.
"""

import threading
from collections.abc import Iterator
from typing import Any

from modelserver.audio.channels import ChannelChoice
from modelserver.audio.errors import AudioError, not_audio
from modelserver.audio.formats import RawFormat
from modelserver.audio.reader import AudioReader
from modelserver.audio.riff import FORMS, HEADER_LIMIT_BYTES, Piece, parse, raw_of

_ENDLESS = 1 << 62
_MAGIC_BYTES = 12
_TAIL_BYTES = 256 * 1024
_BLOCK_BYTES = 8000
"""A quarter of a second: handed over at once, where there is so much."""


class LiveAudio:
    """Feed it, and take what there is with `blocks`; in turn, from one thread."""

    def __init__(
        self, rate: int, *, raw: RawFormat | None = None, channels: ChannelChoice | None = None
    ) -> None:
        """`raw`: what the samples are where there is no container."""
        self._rate, self._channels = rate, channels or ChannelChoice()
        self._raw: RawFormat | None = None
        self._fed_bytes = 0
        self._tail = bytearray()
        """What came last of raw samples, as far as it may not have been decoded yet."""
        self._head: bytearray | None = None
        """Of what may be a WAV file, until that is known."""
        self._enough = _MAGIC_BYTES
        self._left: int | None = None
        """Bytes of samples that a WAV file has still to come, if it says so."""
        self._source: _Plain | _Decoding = _Plain()
        if raw is None:
            self._head = bytearray()
        else:
            self._become(raw)

    @property
    def raw(self) -> RawFormat | None:
        """What the samples are; None as long as what comes later means nothing without what came
        before: in a container, other than a WAV file past its header."""
        return self._raw

    @property
    def warnings(self) -> list[str]:
        """What should be said of it, once it has ended."""
        return self._source.warnings

    def feed(self, data: bytes) -> None:
        """The next of it."""
        if self._head is not None:
            self._head += data
            if self._may_be_wav(self._head):
                return
            data, self._head = bytes(self._head), None
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        self._source.feed(data)
        if self._raw is not None:
            self._fed_bytes += len(data)
            self._tail += data
            if len(self._tail) > _TAIL_BYTES:
                self._forget_decoded()

    def end(self) -> None:
        """There is no more."""
        if self._head is not None:
            self._become(None)
            self._source.feed(bytes(self._head))
            self._head = None
        self._source.feed(None)

    def blocks(self) -> Iterator[bytes]:
        """Samples, until more is needed. Raises `AudioError`."""
        return self._source.blocks()

    def rest(self) -> bytes:
        """Of raw samples, what was fed and has not come out yet."""
        if self._raw is None:
            return b""
        self._forget_decoded()
        return bytes(self._tail)

    def _forget_decoded(self) -> None:
        assert self._raw is not None
        out = self._source.frames_read * self._raw.frame_bytes
        del self._tail[: len(self._tail) - (self._fed_bytes - out)]

    def close(self) -> None:
        """Let go of the decoder."""
        self._source.close()

    def _become(self, raw: RawFormat | None) -> None:
        self._raw = raw
        plain = raw == RawFormat("s16le", self._rate, 1)
        self._source = _Plain() if plain else _Decoding(self._rate, raw, self._channels)

    def _may_be_wav(self, head: bytearray) -> bool:
        """Its header is not whole yet. Once it is, what follows are its samples: FFmpeg would wait
        for 64 kB of them."""
        if len(head) < _MAGIC_BYTES and FORMS[0].startswith(head[:4]):
            return True
        if head[:4] in FORMS and len(head) < HEADER_LIMIT_BYTES:
            if len(head) < self._enough:
                return True
            self._enough = len(head) * 5 // 4  # what is sent in single bytes is not parsed at each
            if (wav := parse(bytes(head))) is None:
                return True
            self._become(raw_of(wav))
            if self._raw is not None:
                del head[: wav.data_at]
                self._left = wav.declared
            return False
        self._become(None)
        return False


class _Plain:
    """Samples that are as they shall be."""

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
        """The decoder's turn. True if it wants more to read."""
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
    """What the decoder reads: what has come so far; then it waits."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.ended = False
        self.hungry = False
        self.turn = threading.Semaphore(0)
        self.wait: Any = None

    def peek(self, size: int) -> bytes:
        """That much, or all that there is."""
        while len(self.bytes) < size and not self.ended:
            self._wait()
        return bytes(self.bytes[:size])

    def read(self, size: int) -> bytes:
        """As of a file that cannot be sought."""
        while not self.bytes and not self.ended:
            self._wait()
        data = bytes(self.bytes[:size])
        del self.bytes[:size]
        return data

    def _wait(self) -> None:
        self.wait(hungry=True)


class _LiveReader(AudioReader):
    """Of what cannot be sought, and has no end yet."""

    def __init__(
        self, pipe: _Pipe, rate: int, raw: RawFormat | None, channels: ChannelChoice
    ) -> None:
        self._pipe = pipe
        super().__init__(pipe, _ENDLESS, rate, raw=raw, channels=channels)

    def samples(self) -> Iterator[bytes]:
        """As they come."""
        try:
            for block in self._blocks():
                yield block[0]
            if self._raw is None and not self._seconds:
                raise not_audio(
                    "nothing could be heard of it as it came: a file whose index comes last has to "
                    "be sent as a file"
                )
        finally:
            self.close()

    def _read_head(self) -> bytes:
        head = self._pipe.peek(_MAGIC_BYTES)
        if not head:
            raise not_audio("there was no audio")
        return head

    def _find_pieces(self) -> list[Piece]:
        return [Piece(0, _ENDLESS)]

    def _window(self, piece: Piece) -> Any:
        return self._pipe

    def _some_samples(self, piece: Piece, size: int) -> bytes:
        return self._pipe.peek(min(size, _BLOCK_BYTES))

    def _without_header(self, piece: Piece) -> Piece | None:
        return None
