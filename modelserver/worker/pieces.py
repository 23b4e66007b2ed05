"""Cutting of a long recording into pieces, in pauses. Runs in the workers.

A piece ends in the quietest half second of its last half. If that is not a pause, its end and the
next one's beginning overlap around it, so that no word is cut in both; this does not apply to a
model whose words have no times, since nothing tells which words both contain. Energies are computed
from every fourth sample, which tells a pause as well as all samples would.
"""

from __future__ import annotations  # array is generic for type checkers only, before 3.12

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from modelserver.audio.channels import ENERGY_EVERY, energy

_FRAME_S = 0.02
_QUIET_S = 0.4
"""Length of a pause, and of the stretches in which pauses are searched for."""
_PAUSE = 0.03
"""A stretch with less of the energy of speech is a pause: -15 dB."""
_SPEECH_SHARE = 0.8
"""Share of all frames that are quieter than one that counts as speech."""
_LEAST = 30.0
"""Energy a sample below which a stretch is silence whatever else is there: 5 of 32768."""
OVERLAP_S = 3.0
"""Overlap of two pieces with no pause between them."""


@dataclass(frozen=True, slots=True)
class AudioPiece:
    """Piece of a recording. Times in seconds from the start of the recording: of its first sample,
    and of its own part, `begin` to `end`; samples before and after belong to its neighbours.
    `paused`: the piece ends in a pause."""

    number: int
    start: float
    begin: float
    end: float
    paused: bool
    pcm: bytes


class Cutter:
    """Feed it with 16-bit samples of one channel."""

    def __init__(self, rate: int, piece_s: float, *, overlap: bool = True) -> None:
        """Cut pieces of at most `piece_s` seconds. `overlap`: whether they may overlap (see
        above)."""
        self._rate = rate
        self._frame = int(rate * _FRAME_S)
        self._most = max(4 * self._frame, int(rate * piece_s))
        self._overlap = min(int(rate * OVERLAP_S), self._most // 4) if overlap else 0
        self._pcm = bytearray()
        self._energies: list[float] = []
        self._number = 0
        self._start = 0  # samples before what is held
        self._begin = 0

    def feed(self, pcm: bytes) -> Iterator[AudioPiece]:
        """Yield the pieces that are complete with these samples."""
        self._pcm += pcm
        self._measure()
        while len(self._pcm) >= 2 * self._most:
            yield self._cut()

    def finish(self) -> Iterator[AudioPiece]:
        """Yield the last piece, if any is left."""
        end = self._start + len(self._pcm) // 2
        if self._pcm and (end > self._begin or self._number == 0):
            yield self._piece(len(self._pcm) // 2, end, paused=True)

    def _measure(self) -> None:
        done = len(self._energies) * self._frame
        samples = array("h", bytes(self._pcm[2 * done : len(self._pcm) // 2 * 2]))
        counted = -(-self._frame // ENERGY_EVERY)
        for at in range(0, len(samples) - self._frame + 1, self._frame):
            self._energies.append(energy(samples[at : at + self._frame]) / counted)

    def _cut(self) -> AudioPiece:
        frames = self._most // self._frame
        energies = self._energies[:frames]
        width = max(1, int(_QUIET_S / _FRAME_S))
        first = max(0, frames // 2)
        quietest, least = first, float("inf")
        window = sum(energies[first : first + width])
        for at in range(first, frames - width):
            if window <= least:  # the last of those that are alike: pieces are not many
                quietest, least = at, window
            window += energies[at + width] - energies[at]
        speech = sorted(energies)[int(len(energies) * _SPEECH_SHARE)]
        paused = least / width < max(_LEAST, _PAUSE * speech)
        at = (quietest + width // 2) * self._frame
        seam = self._start + at
        if paused:
            return self._piece(at, seam, paused=True)
        half = self._overlap // 2
        return self._piece(min(at + half, self._most), seam, paused=False, back=at - half)

    def _piece(self, length: int, end: int, *, paused: bool, back: int | None = None) -> AudioPiece:
        """Return the first `length` samples as a piece; the next one begins at `back`, or where it
        ends."""
        piece = AudioPiece(
            self._number,
            self._start / self._rate,
            self._begin / self._rate,
            end / self._rate,
            paused,
            bytes(self._pcm[: 2 * length]),
        )
        gone = max(0, length if back is None else back) // self._frame * self._frame
        self._number += 1
        self._begin = end
        self._start += gone
        del self._pcm[: 2 * gone]
        del self._energies[: gone // self._frame]
        return piece
