"""Bundled clips of synthetic speech, for warming up and for comparing models."""

import array
import glob
import random
import sys
from pathlib import Path

import av

_DIRECTORY = Path(__file__).parent


def clips_for(language: str) -> list[Path]:
    """Return the clips in the language of the BCP 47 tag; if there are none, those in English."""
    return own_clips(language) or own_clips("en")


def own_clips(language: str) -> list[Path]:
    """Return the clips in the language of the BCP 47 tag; an empty list if there are none."""
    primary = glob.escape(language.partition("-")[0])
    return sorted(_DIRECTORY.glob(f"{primary}-*.opus"))


def decode_clip(path: Path, sample_rate: int) -> bytes:
    """Decode a whole clip to 16-bit little-endian mono samples."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=sample_rate)
    pcm = bytearray()
    with av.open(str(path)) as container:
        for frame in [*container.decode(audio=0), None]:
            for resampled in resampler.resample(frame):
                pcm += bytes(resampled.planes[0])[: resampled.samples * 2]
    return bytes(pcm)


def noise(seconds: float, sample_rate: int, level: int = 2000) -> bytes:
    """Return plain noise, always the same, as 16-bit little-endian mono samples up to `level`."""
    generator = random.Random(1)  # noqa: S311 - a signal, not a secret
    count = round(seconds * sample_rate)
    samples = array.array("h", (generator.randrange(-level, level) for _ in range(count)))
    if sys.byteorder == "big":
        samples.byteswap()
    return samples.tobytes()
