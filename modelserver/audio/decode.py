"""WAV to 16-bit mono PCM at the model's rate, chunk by chunk. Runs in the workers."""

import dataclasses
import itertools
from collections.abc import Iterator
from fractions import Fraction

import av
import av.filter

from modelserver.audio.wav import HEADER_LIMIT_BYTES, WavHeader, parse_wav_header
from supervisor import SpoolView

_BLOCK_FRAMES = 16_384
"""What is decoded at once: a second at 16 kHz."""


class WavReader:
    """One WAV file behind a seekable view, whose samples are read once from front to back."""

    def __init__(self, view: SpoolView, size: int, sample_rate: int) -> None:
        """Read the header. Raises `AudioError`."""
        self._view = view
        self._sample_rate = sample_rate
        view.seek(0)
        prefix = view.read(min(size, HEADER_LIMIT_BYTES + 8))
        header = parse_wav_header(prefix, complete=True)
        assert header is not None
        available = size - header.data_offset
        if header.declared_bytes == 0 and available > 0:
            # A streaming writer that never came back to fill the size in.
            header = dataclasses.replace(header, declared_bytes=None)
        self.header = header
        self.frames = header.frames(available)
        self.cut_short = header.cut_short(available)

    @property
    def duration_s(self) -> float:
        """Seconds of audio that are there."""
        return self.frames / self.header.sample_rate

    def pcm(self, chunk_bytes: int) -> Iterator[bytes]:
        """The samples as a recogniser takes them, in chunks of `chunk_bytes` (the last one may
        be shorter)."""
        pending = bytearray()
        for block in self._resampled():
            pending += block
            while len(pending) >= chunk_bytes:
                yield bytes(pending[:chunk_bytes])
                del pending[:chunk_bytes]
        if pending:
            yield bytes(pending)

    def _blocks(self) -> Iterator[bytes]:
        self._view.seek(self.header.data_offset)
        left = self.frames * self.header.frame_bytes
        while left > 0:
            block = self._view.read(min(left, _BLOCK_FRAMES * self.header.frame_bytes))
            left -= len(block)
            yield block

    def _resampled(self) -> Iterator[bytes]:
        header = self.header
        if (header.codec, header.channels, header.sample_rate) == (
            "pcm_s16le",
            1,
            self._sample_rate,
        ):
            yield from self._blocks()  # nothing to do is done exactly
            return
        decoder = av.CodecContext.create(header.codec, "r")
        assert isinstance(decoder, av.AudioCodecContext)
        decoder.sample_rate = header.sample_rate
        decoder.layout = _layout(header.channels)
        decoder.open()
        graph: av.filter.Graph | None = None
        for block in self._blocks():
            for frame in decoder.decode(av.Packet(block)):
                frame.pts = None
                if graph is None:
                    graph = _mixer(frame, header, self._sample_rate)
                graph.push(frame)
                yield from _pulled(graph)
        if graph is not None:
            graph.push(None)
            yield from _pulled(graph)


def _layout(channels: int) -> str:
    """FFmpeg's name of an arrangement with that many channels; which is which does not matter,
    since all are mixed alike."""
    return {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}[
        channels
    ]


def _mixer(frame: av.AudioFrame, header: WavHeader, sample_rate: int) -> av.filter.Graph:
    """Floats, the mean of all channels, the wanted rate, 16 bits.

    Not FFmpeg's own downmix: that drops the channel it takes for a subwoofer, and somebody's
    microphone may be there.
    """
    graph = av.filter.Graph()
    share = Fraction(1, header.channels)
    mean = "+".join(f"{float(share)}*c{channel}" for channel in range(header.channels))
    nodes = [
        graph.add_abuffer(
            sample_rate=header.sample_rate,
            format=frame.format.name,
            layout=frame.layout.name,
            time_base=Fraction(1, header.sample_rate),
        ),
        graph.add("aformat", "sample_fmts=flt"),
        graph.add("pan", f"mono|c0={mean}"),
        graph.add("aresample", str(sample_rate)),
        graph.add("aformat", "sample_fmts=s16:channel_layouts=mono"),
        graph.add("abuffersink"),
    ]
    for source, target in itertools.pairwise(nodes):
        source.link_to(target)
    graph.configure()
    return graph


def _pulled(graph: av.filter.Graph) -> Iterator[bytes]:
    while True:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):
            return
        assert isinstance(frame, av.AudioFrame)
        yield bytes(frame.planes[0])[: frame.samples * 2]
