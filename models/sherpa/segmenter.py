"""Cuts audio into stretches of speech, by the probability of speech in each frame.

A stretch begins a little before the first frame with speech and ends a little after the last one
that a pause follows. Frames are at fixed positions of the audio, so that stretches do not depend on
how the audio arrives. Memory is bounded by the longest stretch.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from operator import mul

_SPEECH, _SILENCE = 0.5, 0.35
"""Probabilities from which a stretch begins, and below which a frame belongs to a pause."""
_BEFORE_S, _AFTER_S = 0.3, 0.3
"""Seconds of audio that are included before and after the speech of a stretch."""
_PAUSE_S = 0.6
"""Seconds of pause that end a stretch; a stretch longer than `_LONG_S` is cut at a shorter
pause."""
_LONG_S, _SHORT_PAUSE_S = 15.0, 0.2
_LEAST_SPEECH_S = 0.09
"""Seconds of speech that a stretch needs: a click has less."""
_AROUND = 3
"""Frames on either side of a cut without a pause that have to be quiet, too."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech: 16-bit mono samples, and the position of the first one."""

    start: int
    pcm: bytes
    cut: bool = False
    """True if it was ended because of its length."""


class Segmenter:
    """Takes frames of audio in order and returns each stretch once it is complete."""

    def __init__(
        self,
        probability: Callable[[bytes], float],
        rate: int,
        frame_samples: int,
        longest_s: float,
        *,
        cuts_back: bool,
        pause_s: float | None = None,
    ) -> None:
        """Create a segmenter. `probability`: returns that of speech in the next frame. `longest_s`:
        of a stretch. `cuts_back`: a longer stretch is cut at the quietest spot of its second half,
        instead of where it is. `pause_s`: a pause that ends a stretch of any length; None: 0.6 s,
        and 0.2 s from 15 s on."""
        self._probability = probability
        self._bytes = 2 * frame_samples
        self._frame_s = frame_samples / rate
        self._cuts_back = cuts_back
        self._longest = int(longest_s / self._frame_s)
        self._before, self._after = self._frames(_BEFORE_S), self._frames(_AFTER_S)
        self._pause_s = pause_s
        self.audio = bytearray()
        """Stretch so far, or audio that will precede the next one."""
        self.start = 0
        """Position of its first sample."""
        self.speaking = False
        """True while a stretch is not complete."""
        self._speech = self._quiet = 0

    def _frames(self, seconds: float) -> int:
        return max(1, round(seconds / self._frame_s))

    def push(self, frame: bytes) -> Segment | None:
        """Process one frame; return the stretch that is complete now."""
        probability = self._probability(frame)
        self.audio += frame
        if not self.speaking and probability < _SPEECH:
            self._drop(len(self.audio) // self._bytes - self._before)
            return None
        self.speaking = True
        self._speech += probability >= _SPEECH
        self._quiet = self._quiet + 1 if probability < _SILENCE else 0
        length = len(self.audio) // self._bytes
        if self._quiet >= self._frames(self._pause_after(length)):
            return self._end(length - max(0, self._quiet - self._after))
        if length >= self._longest:
            return self._cut(length)
        return None

    def _pause_after(self, length: int) -> float:
        if self._pause_s is not None:
            return self._pause_s
        return _PAUSE_S if length * self._frame_s < _LONG_S else _SHORT_PAUSE_S

    def flush(self, position: int) -> Segment | None:
        """Return the stretch that the end of the audio completes. The next frame is at `position`,
        in samples, and has no audio before it."""
        segment = self._end(len(self.audio) // self._bytes) if self.speaking else None
        self.audio.clear()
        self.start = position
        return segment

    def _end(self, frames: int) -> Segment | None:
        enough = self._speech >= self._frames(_LEAST_SPEECH_S)
        segment = self._take(frames)
        self.speaking = False
        self._speech = self._quiet = 0
        self._drop(len(self.audio) // self._bytes - self._before)
        return segment if enough else None

    def _cut(self, length: int) -> Segment | None:
        if self._quiet > self._after:
            return self._end(length - self._quiet + self._after)
        at = self._quietest(length) if self._cuts_back else length
        if at >= length - self._quiet:
            self._speech = 0  # only silence is left
        return self._take(at, cut=True)

    def _take(self, frames: int, *, cut: bool = False) -> Segment:
        segment = Segment(self.start, bytes(self.audio[: frames * self._bytes]), cut)
        self._drop(frames)
        return segment

    def _drop(self, frames: int) -> None:
        if frames > 0:
            del self.audio[: frames * self._bytes]
            self.start += frames * self._bytes // 2

    def _quietest(self, length: int) -> int:
        """Return the frame of the second half before which to cut."""
        first = length // 2
        energies = []
        for at in range(first - _AROUND, length):
            samples = array("h", bytes(self.audio[at * self._bytes : (at + 1) * self._bytes]))
            energies.append(sum(map(mul, samples, samples)))
        around = range(len(energies) - 2 * _AROUND)
        return first + min(around, key=lambda at: (sum(energies[at : at + 2 * _AROUND]), -at))
