"""A file that FFmpeg has opened, and the window through which it reads nothing but that file."""

from collections.abc import Iterator
from typing import Any, NoReturn

import av
import av.error

from modelserver.audio.formats import SAMPLE_RATES
from modelserver.audio.riff import Piece, Readable

_MOST_DAMAGE = 1000
"""Packets in a row that cannot be decoded, after which the rest of the file is not tried."""
_CUT_S, _CUT_SHARE = 1.0, 0.03
"""Seconds, and share of the announced duration, that may be missing from a whole file."""


class Opened:
    """A piece that FFmpeg has opened."""

    def __init__(self, container: Any, piece: Piece) -> None:
        self.container, self.piece = container, piece
        self.damaged = 0
        """Packets and frames that could not be decoded."""
        self.stream = container.streams.best("audio")
        if self.stream is not None and self.stream.codec_context is None:
            self.stream = None
        if self.stream is not None:
            self.stream.codec_context.thread_count = 1

    @property
    def channels(self) -> int:
        """Number of channels of the stream."""
        assert self.stream is not None
        return max(1, int(self.stream.codec_context.channels))

    @property
    def duration_s(self) -> float | None:
        """Length by the container, unless the container only guesses."""
        if self.stream is None or self.container.format.name in ("mp3", "aac", "mpegts", "mpeg"):
            return None
        if self.stream.duration is not None and self.stream.time_base is not None:
            return float(self.stream.duration * self.stream.time_base)
        return None

    def frames(self) -> Iterator[av.AudioFrame]:
        """Decode the file from front to back, leaving out what is damaged."""
        assert self.stream is not None
        packets = self.container.demux(self.stream)
        failed = 0
        while True:
            try:
                packet = next(packets)
            except (StopIteration, EOFError):
                return
            except (av.error.FFmpegError, OSError):
                self.damaged += 1
                return
            try:
                frames = packet.decode()
            except EOFError:
                return
            except (av.error.FFmpegError, ValueError):
                self.damaged += 1
                failed += 1
                if failed > _MOST_DAMAGE:
                    return
                continue
            failed = 0
            for frame in frames:
                if not isinstance(frame, av.AudioFrame) or not frame.samples:
                    continue
                if frame.sample_rate not in SAMPLE_RATES:
                    self.damaged += 1
                    continue
                frame.pts = None
                yield frame

    def is_cut_short(self, seconds: float) -> bool:
        """Return whether the file announces notably more than these seconds of audio."""
        announced = self.duration_s
        if announced is None or self.piece.header:
            return False
        return announced - seconds > max(_CUT_S, _CUT_SHARE * announced)

    def close(self) -> None:
        """Close the decoder; a second call does nothing."""
        self.container.close()


class Window:
    """Stretch of the file, behind another header if needed, which FFmpeg reads."""

    def __init__(self, view: Readable, piece: Piece) -> None:
        self._view, self._piece, self._at = view, piece, 0
        self._length = len(piece.header) + piece.end - piece.start

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes, as a file does."""
        header = self._piece.header
        if self._at < len(header):
            data = header[self._at : self._at + size]
        else:
            offset = self._piece.start + self._at - len(header)
            if offset >= self._piece.end:
                return b""
            self._view.seek(offset)
            data = self._view.read(max(0, min(size, self._piece.end - offset)))
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset, as a file does."""
        base = (0, self._at, self._length)[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the offset, as a file does."""
        return self._at


def open_nothing(*_: object) -> NoReturn:
    """Refuse to open any other file that a file names."""
    raise PermissionError("nothing else is opened")
