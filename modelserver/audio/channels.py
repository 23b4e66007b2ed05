"""Choice of the channels to recognise: all of them mixed, the louder one if mixing would silence
speech, or each separately.

Works on 16-bit samples at the recogniser's rate. Energies are computed from every fourth sample,
which tells a silent channel from another one as well as all samples would.
"""

from __future__ import annotations  # array is generic for type checkers only, before 3.12

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

from modelserver.audio.errors import AudioError

MIX, SPLIT = "mix", "split"

_DECAY = 0.97
"""Factor by which earlier energies decay with each block: about four seconds of memory."""
_CANCELLED = 0.02
"""The mean has less than this share of the louder channel's energy: -17 dB."""
_SILENT = 1e-4
"""A channel has less than this share of the louder one's energy: -40 dB."""
_NOTHING = 100.0
"""Energy a sample below which a block says nothing: 10 of 32768."""
ENERGY_EVERY = 4
"""Step between the samples that are counted."""


@dataclass(frozen=True, slots=True)
class ChannelChoice:
    """Choice of channels. `how`: `MIX`, one stream of samples, or `SPLIT`, one for each channel, or
    for each of `numbers`."""

    how: str = MIX
    numbers: tuple[int, ...] = ()

    @property
    def least(self) -> int:
        """Least number of channels that the choice implies, if nothing else gives it."""
        if self.numbers:
            return max(self.numbers) + 1
        return 2 if self.how == SPLIT else 1


def channel_choice(text: str) -> ChannelChoice:
    """Parse "mix", "split", or numbers of channels such as "0,1", counted from 0. Raises
    `AudioError`."""
    wanted = text.strip().lower()
    if wanted in (MIX, SPLIT):
        return ChannelChoice(wanted)
    numbers = [part.strip() for part in wanted.split(",")]
    if all(n.isascii() and n.isdecimal() and len(n) < 3 for n in numbers):
        return ChannelChoice(SPLIT, tuple(dict.fromkeys(map(int, numbers))))
    raise AudioError(
        "bad_parameter",
        f"channels={text[:40]!r} is not known: expected mix, split, or numbers such as 0,1",
    )


class LouderWhereMixingFails:
    """Chooses for each block between the mean of the channels and the loudest one of them."""

    def __init__(self) -> None:
        self.cancelled_s = 0.0
        self.silent_s = 0.0
        self._channels: list[float] = []
        self._mean = 0.0

    def choose(self, channels: Sequence[array[int]], mean: array[int], rate: int) -> array[int]:
        """Return the samples to recognise, given one block of each channel and of their mean."""
        energies = [energy(channel) for channel in channels]
        together = energy(mean)
        count = max(1, len(mean))
        before = self._channels or [0.0] * len(energies)
        self._channels = [_DECAY * past + now for past, now in zip(before, energies, strict=True)]
        self._mean = _DECAY * self._mean + together
        loudest = max(range(len(energies)), key=self._channels.__getitem__)
        most = self._channels[loudest]
        now = max(range(len(energies)), key=energies.__getitem__)
        if energies[now] * ENERGY_EVERY / count < _NOTHING:
            now, here = loudest, False
        else:
            here = together < _CANCELLED * energies[now]
        if here or self._mean < _CANCELLED * most:
            self.cancelled_s += count / rate
            return channels[now if here else loudest]
        if min(self._channels) < _SILENT * most:
            self.silent_s += count / rate
            return channels[loudest]
        return mean

    def warnings(self) -> list[str]:
        """Return warnings for the client about the choice."""
        said = []
        if self.cancelled_s > 0.5:
            said.append("the channels cancel each other out: the louder one was recognised")
        elif self.silent_s > 0.5:
            said.append("a channel is silent: the louder one was recognised")
        return said


def energy(samples: array[int]) -> float:
    """Return the sum of the squares of every `ENERGY_EVERY`th sample."""
    some = samples[::ENERGY_EVERY]
    return float(sum(map(mul, some, some)))
