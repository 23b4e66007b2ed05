"""Silence in an utterance, counted from the loudness of its audio.

A frame is loud if it stands out from the quietest moment of the last seconds. Nothing before the
utterance counts, so that the same audio has the same silence on every worker.
"""

from array import array
from collections import deque
from operator import mul

FRAME_S = 0.02
_SMOOTHED = 3
"""Frames over which the quietest moment is averaged."""
_BLOCK, _BLOCKS = 25, 8
"""The quietest moment is one of the last 8 times 25 frames: 4 s, in which every speaker has one."""
_ABOVE = 3.0
"""Amplitude of a loud frame over that of the quietest moment: 9.5 dB, more than noise varies."""
_LEAST, _MOST = 60.0, 1800.0
"""Root mean square of 16-bit samples that a loud frame has at the least (-55 dB), and that is loud
whatever the quietest moment is (-25 dB)."""
_NOISE = 300.0
"""Root mean square of noise that speech might hide in (-41 dB)."""
_LEAST_SPEECH = 5
"""Loud frames that speech has: a click has fewer."""


class Silence:
    """Takes the frames of an utterance in order. Counts are frames of `FRAME_S` seconds."""

    def __init__(self) -> None:
        self.quiet = 0
        """Frames since the last loud one."""
        self.sounding = 0
        """Frames since the first one that was loud, or had noise that speech might hide in."""
        self._loud = 0
        self._recent: deque[float] = deque(maxlen=_SMOOTHED)
        self._minima: deque[float] = deque(maxlen=_BLOCKS)
        self._in_block = _BLOCK

    @property
    def has_speech(self) -> bool:
        """Return whether there was speech, or a sound like it."""
        return self._loud >= _LEAST_SPEECH

    def push(self, frame: bytes) -> None:
        """Take the next frame: 16-bit samples."""
        samples = array("h", frame)
        energy = sum(map(mul, samples, samples)) / len(samples)
        self._recent.append(energy)
        least = self._quietest(sum(self._recent) / len(self._recent)) * _ABOVE * _ABOVE
        if energy >= min(max(least, _LEAST * _LEAST), _MOST * _MOST):
            self.quiet = 0
            self._loud += 1
        else:
            self.quiet += 1
        if self.sounding or not self.quiet or energy >= _NOISE * _NOISE:
            self.sounding += 1

    def _quietest(self, smoothed: float) -> float:
        if self._in_block == _BLOCK:
            self._minima.append(smoothed)
            self._in_block = 0
        self._in_block += 1
        self._minima[-1] = min(self._minima[-1], smoothed)
        return min(self._minima)
