"""Decoding of any audio file to 16-bit PCM at the recogniser's rate, chunk by chunk. Runs in the
workers.

FFmpeg demuxes and decodes (through PyAV), with the containers and decoders of `formats` only, from
a file that is open already: it can open nothing by itself. Memory does not depend on the length.
"""

from __future__ import annotations  # array is generic for type checkers only, before 3.12

import itertools
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import av
import av.error
import av.logging

from modelserver.audio.channels import SPLIT, ChannelChoice, LouderWhereMixingFails
from modelserver.audio.errors import AudioError, not_audio, too_long, unsupported
from modelserver.audio.formats import DECODERS, DEMUXERS, EITHER_ENDIAN, SAMPLE_RATES, RawFormat
from modelserver.audio.probe import container_of, what_it_is
from modelserver.audio.riff import FORMS, Piece, pieces, without_its_header
from modelserver.worker.following import following_pieces
from modelserver.worker.opened import Opened, Window, open_nothing
from modelserver.worker.resampling import Resampler

av.logging.set_level(None)

_PROBE_BYTES = "2048"
"""Bytes to probe of a file whose header is complete; FFmpeg would otherwise read and decode half a
second to guess."""
_PROBE_OTHERS_BYTES = "2000000"
_AHEAD_BYTES = 160_000
"""Bytes that are decoded before the recogniser receives some: switching between the two costs each
of them the processor's caches, 3 ms for 5 s of audio."""
_LISTEN_BYTES = 64_000
"""Bytes of samples from which their byte order is detected."""
_MIXED = ChannelChoice()


class AudioReader:
    """Reader of an audio file behind a seekable view: its samples are read once from front to
    back."""

    def __init__(
        self,
        view: Any,
        size: int,
        rate: int,
        *,
        raw: RawFormat | None = None,
        channels: ChannelChoice = _MIXED,
        longest_s: float | None = None,
    ) -> None:
        """Open the file. `raw`: the format without a container. Raises `AudioError`."""
        self._view, self._size, self._rate = view, size, rate
        self._wanted, self._longest_s = channels, longest_s
        self._seconds = 0.0
        self._damaged = 0
        self._warnings: list[str] = []
        self._louder = LouderWhereMixingFails()
        self.frames_read = 0
        """Samples of each channel, as they are in the file."""
        self._head = self._read_head()
        # A file is a file, whatever it is said to be.
        self._raw = None if self._head[:4] in FORMS else raw
        self._pieces = self._find_pieces()
        self._first = self._open(self._pieces[0])
        self.numbers = self._numbers()

    @property
    def duration_s(self) -> float:
        """Seconds of audio that were read so far."""
        return self._seconds

    @property
    def warnings(self) -> list[str]:
        """Warnings about the file, once it was read."""
        said = [*self._warnings, *self._louder.warnings()]
        if self._damaged:
            said.append("the file is damaged: what could be decoded was recognised")
        return list(dict.fromkeys(said))

    def channel(self, number: int) -> int | None:
        """Return the channel at that position of `numbers`; None if all are mixed."""
        return self.numbers[number] if self.numbers else None

    def pcm(self, chunk_bytes: int) -> Iterator[tuple[int, bytes]]:
        """Yield samples for a recogniser: the channel (its place in `numbers`; 0 if all are mixed),
        and a chunk of `chunk_bytes`; the last one of each may be shorter. Raises `AudioError`."""
        pending = [bytearray() for _ in range(max(1, len(self.numbers)))]
        try:
            for block in self._blocks():
                for number, samples in enumerate(block):
                    pending[number] += samples
                if len(pending[0]) < _AHEAD_BYTES:
                    continue
                for number, waiting in enumerate(pending):
                    yield from ((number, chunk) for chunk in _taken(waiting, chunk_bytes))
        finally:
            self.close()
        if not self._seconds:
            if self._damaged:
                raise what_it_is(self._head) or not_audio("nothing in the file can be decoded")
            self._warnings.append("there are no samples in the file")
        for number, rest in enumerate(pending):
            yield from ((number, chunk) for chunk in _taken(rest, chunk_bytes))
            if rest:
                yield number, bytes(rest)

    def close(self) -> None:
        """Close the decoder."""
        self._first.close()

    # --- opening --------------------------------------------------------------------------------

    def _read_head(self) -> bytes:
        if self._size == 0:
            raise not_audio("the file is empty")
        self._view.seek(0)
        head: bytes = self._view.read(min(self._size, 4096))
        return head

    def _window(self, piece: Piece) -> Any:
        """Return the file object that FFmpeg reads."""
        return Window(self._view, piece)

    def _more_options(self) -> dict[str, str]:
        """Return further options of FFmpeg for opening the file."""
        return {}

    def _some_samples(self, piece: Piece, size: int) -> bytes:
        self._view.seek(piece.start)
        some: bytes = self._view.read(min(self._size, size))
        return some

    def _without_header(self, piece: Piece) -> Piece | None:
        """Return the samples of a WAV file whose header cannot be read."""
        if piece.header or self._head[8:12] != b"WAVE":
            return None
        return without_its_header(self._view, self._size)

    def _find_pieces(self) -> list[Piece]:
        if self._raw is not None:
            return [Piece(0, self._size)]
        found = list(pieces(self._view, self._size))
        found = found or following_pieces(self._view, self._size) or [Piece(0, self._size)]
        self._warnings += [piece.warning for piece in found if piece.warning]
        return found

    def _open(self, piece: Piece) -> Opened:
        raw = self._raw
        if raw is not None and raw.encoding == EITHER_ENDIAN:
            some = self._some_samples(piece, _LISTEN_BYTES)
            order = "be" if _sounds_big_endian(some[: len(some) & ~1]) else "le"
            raw = RawFormat(f"s16{order}", raw.rate, raw.channels)
        simple = raw is not None or self._head[8:12] in (b"WAVE", b"AIFF", b"AIFC")
        options = {
            "format_whitelist": DEMUXERS if raw is None else raw.encoding,
            "codec_whitelist": DECODERS,
            "protocol_whitelist": "none",
            "probesize": _PROBE_BYTES if simple else _PROBE_OTHERS_BYTES,
        }
        options |= self._more_options()
        if raw is not None:
            options |= {"sample_rate": str(raw.rate), "ch_layout": f"{raw.channels}C"}
        try:
            container = av.open(
                self._window(piece),
                "r",
                format=raw.encoding if raw else None,
                options=options,
                io_open=open_nothing,
            )
        except (av.error.FFmpegError, ValueError, OSError) as error:
            if (bare := self._without_header(piece)) is not None:
                return self._open(bare)
            raise self._refusal() from error
        opened = Opened(container, piece)
        if opened.stream is None:
            container.close()
            raise unsupported("there is no sound in the file, or none that can be decoded")
        rate = opened.stream.codec_context.sample_rate
        if rate and rate not in SAMPLE_RATES:
            container.close()
            raise unsupported(
                f"samples at {rate} Hz are not supported: "
                f"expected {SAMPLE_RATES[0]} to {SAMPLE_RATES[-1]} Hz"
            )
        return opened

    def _refusal(self) -> AudioError:
        if (error := what_it_is(self._head)) is not None:
            return error
        if (name := container_of(self._head)) is not None:
            return not_audio(f"the {name} file cannot be read: it is damaged, or cut short")
        return not_audio("this is not an audio file of a known kind")

    def _numbers(self) -> tuple[int, ...]:
        """Return the channels that are recognised separately; none if they are mixed."""
        there = self._first.channels
        if self._wanted.how == SPLIT and not self._wanted.numbers:
            return tuple(range(there))
        missing = [number for number in self._wanted.numbers if number >= there]
        if missing:
            raise AudioError(
                "bad_parameter",
                f"there is no channel {missing[0]}: the audio has {there}, counted from 0",
            )
        return self._wanted.numbers

    # --- decoding -------------------------------------------------------------------------------

    def _blocks(self) -> Iterator[Sequence[bytes]]:
        """Yield stretches of samples: of each channel that is recognised, or of the mix."""
        for number, piece in enumerate(self._pieces):
            opened = self._first if number == 0 else self._open(piece)
            try:
                yield from self._decoded(opened)
            finally:
                opened.close()

    def _decoded(self, opened: Opened) -> Iterator[Sequence[bytes]]:
        graph: Resampler | None = None
        before = self._seconds
        for frame in opened.frames():
            self._seconds += frame.samples / frame.sample_rate
            self.frames_read += frame.samples
            if self._longest_s is not None and self._seconds > self._longest_s:
                raise too_long(self._seconds, self._longest_s)
            plain = frame.format.name in ("s16", "s16p") and frame.layout.nb_channels == 1
            if plain and frame.sample_rate == self._rate:
                if graph is not None:
                    yield from self._wanted_channels(graph, last=True)
                    graph = None
                # Nothing to do is done exactly.
                yield (bytes(frame.planes[0])[: frame.samples * 2],)
                continue
            if graph is not None and not graph.takes(frame):
                yield from self._wanted_channels(graph, last=True)
                graph = None
            try:
                if graph is None:
                    graph = Resampler(frame, self._rate)
                graph.push(frame)
            except (av.error.FFmpegError, ValueError):  # of so many channels, or at such a rate
                self._damaged += 1
                graph = None
                continue
            yield from self._wanted_channels(graph, last=False)
        if graph is not None:
            yield from self._wanted_channels(graph, last=True)
        self._damaged += opened.damaged
        if not self._warnings and opened.is_cut_short(self._seconds - before):
            self._warnings.append("the file is cut short: what is there was recognised")

    def _wanted_channels(self, graph: Resampler, *, last: bool) -> Iterator[Sequence[bytes]]:
        for channels, mean in graph.pull(last=last):
            if self.numbers:
                silence = bytes(2 * len(mean))
                yield [
                    channels[n].tobytes() if n < len(channels) else silence for n in self.numbers
                ]
            elif len(channels) == 1:
                yield (channels[0].tobytes(),)
            else:
                yield (self._louder.choose(channels, mean, self._rate).tobytes(),)


def _taken(samples: bytearray, size: int) -> Iterator[bytes]:
    """Chunks of that size, as long as there are any; what is left stays."""
    whole = len(samples) // size * size
    for at in range(0, whole, size):
        yield bytes(samples[at : at + size])
    del samples[:whole]


def _sounds_big_endian(data: bytes) -> bool:
    """Speech is smooth: in the wrong order of bytes it is noise. Silence is as RFC 2586 says."""

    def steps(samples: array[int]) -> int:
        return sum(abs(a - b) for a, b in itertools.pairwise(samples))

    little = array("h", data)
    big = array("h", data)
    big.byteswap()
    return steps(big) <= steps(little)
