"""Conversion of decoded audio to 16-bit samples at the recogniser's rate, by FFmpeg's filters."""

from __future__ import annotations  # array is generic for type checkers only, before 3.12

import itertools
from array import array
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.filter

_BLOCK_S = 0.1


class Resampler:
    """Converter to floats, the wanted rate, and 16 bits; each channel separately, and the mean of
    all. FFmpeg's own downmix is not used: it drops the channel that it takes for a subwoofer, which
    may hold a microphone."""

    def __init__(self, frame: av.AudioFrame, rate: int) -> None:
        self._kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        self._channels = frame.layout.nb_channels
        self._least = max(1, int(rate * _BLOCK_S))
        self._waiting = [array("h"), array("h")]
        graph = av.filter.Graph()
        source = graph.add(
            "abuffer",
            f"sample_rate={frame.sample_rate}:sample_fmt={frame.format.name}:"
            f"channel_layout={frame.layout.name}:time_base=1/{frame.sample_rate}",
        )
        nodes = [source, graph.add("aformat", "sample_fmts=flt")]
        nodes.append(graph.add("aresample", str(rate)))
        s16 = "sample_fmts=s16"
        if self._channels == 1:
            self._sinks = [graph.add("abuffersink")]
            _link([*nodes, graph.add("aformat", s16), self._sinks[0]])
        else:
            self._sinks = [graph.add("abuffersink"), graph.add("abuffersink")]
            split = graph.add("asplit", "2")
            share = float(Fraction(1, self._channels))
            mean = "+".join(f"{share}*c{channel}" for channel in range(self._channels))
            _link([*nodes, split])
            each, mixed = graph.add("aformat", s16), graph.add("pan", f"mono|c0={mean}")
            split.link_to(each, 0, 0)
            split.link_to(mixed, 1, 0)
            _link([each, self._sinks[0]])
            _link([mixed, graph.add("aformat", f"{s16}:channel_layouts=mono"), self._sinks[1]])
        graph.configure()
        self._graph, self._source = graph, source

    def takes(self, frame: av.AudioFrame) -> bool:
        """Return whether the frame has the format of the earlier ones."""
        return self._kind == (frame.format.name, frame.layout.name, frame.sample_rate)

    def push(self, frame: av.AudioFrame) -> None:
        """Convert the next frame."""
        self._source.push(frame)

    def pull(self, *, last: bool) -> Iterator[tuple[list[array[int]], array[int]]]:
        """Yield samples of each channel, and their mean, in blocks that are long enough to
        compare."""
        if last:
            self._source.push(None)
        for sink, waiting in zip(self._sinks, self._waiting, strict=False):
            for samples in _pulled(sink):
                waiting.frombytes(samples)
        each, mean = self._waiting
        frames = len(each) // self._channels
        if len(self._sinks) > 1:
            frames = min(frames, len(mean))
        if not frames or (frames < self._least and not last):
            return
        block = each[: frames * self._channels]
        del each[: frames * self._channels]
        channels = [block[number :: self._channels] for number in range(self._channels)]
        mixed = mean[:frames] if len(self._sinks) > 1 else channels[0]
        del mean[:frames]
        yield channels, mixed


def _link(nodes: list[Any]) -> None:
    for source, target in itertools.pairwise(nodes):
        source.link_to(target)


def _pulled(sink: Any) -> Iterator[bytes]:
    while True:
        try:
            frame = sink.pull()
        except (BlockingIOError, EOFError):
            return
        yield bytes(frame.planes[0])[: frame.samples * 2 * frame.layout.nb_channels]
