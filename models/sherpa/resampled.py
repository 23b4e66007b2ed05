"""Recogniser for audio of another rate than its model's: FFmpeg resamples in front of it.

sherpa-onnx would resample, too, but writes a line to standard output for each stream.
"""

from collections.abc import Generator

import av

from models.contract import ModelError, Partial, Recognizer, Utterance

_DELAY_S = 0.1
"""Seconds of audio, more than the resampler holds back."""
_LOWEST, _HIGHEST = 1000, 384_000


class ResampledRecognizer:
    """Implements `models.contract.Recognizer` over another one."""

    def __init__(self, recognizer: Recognizer, rate: float, model_rate: int) -> None:
        """Wrap a recogniser. `rate`: of the audio that it takes; `model_rate`: of the audio that
        `recognizer` takes. Raises `ModelError` for impossible rates."""
        if not _LOWEST <= rate <= _HIGHEST:
            raise ModelError(
                "rate_unsupported", f"rate is {rate:g}: expected {_LOWEST} to {_HIGHEST}"
            )
        self._recognizer = recognizer
        self._rate, self._model_rate = round(rate), model_rate
        self._resampler = self._new_resampler()
        self._rest = b""
        self._recent = bytearray()

    def _new_resampler(self) -> av.AudioResampler:
        return av.AudioResampler(format="s16", layout="mono", rate=self._model_rate)

    def accept(self, pcm: bytes) -> Generator[None, None, list[Utterance]]:
        """Take samples at the rate that it was made for."""
        self._recent += pcm
        data = self._rest + pcm
        whole = len(data) // 2 * 2
        self._rest = data[whole:]
        utterances = yield from self._recognizer.accept(self._resampled(data[:whole]))
        self._forget()
        return utterances

    def partial(self) -> Partial:
        """Return the unfinished utterance."""
        return self._recognizer.partial()

    def finish(self) -> Generator[None, None, list[Utterance]]:
        """Process the end of the audio."""
        last = b"".join(_samples(frame) for frame in self._resampler.resample(None))
        utterances = yield from self._recognizer.accept(last)
        utterances += yield from self._recognizer.finish()
        self._resampler = self._new_resampler()
        self._rest = b""
        self._recent.clear()
        return utterances

    def pending(self) -> bytes:
        """Return the audio of the present stretch, at the rate that it was made for."""
        return bytes(self._recent)

    def close(self) -> None:
        """Release the audio."""
        self._recognizer.close()
        self._recent.clear()

    def _resampled(self, pcm: bytes) -> bytes:
        if not pcm:
            return b""
        frame = av.AudioFrame(format="s16", layout="mono", samples=len(pcm) // 2)
        frame.sample_rate = self._rate
        plane = frame.planes[0]
        plane.update(pcm.ljust(plane.buffer_size, b"\0"))
        return b"".join(_samples(made) for made in self._resampler.resample(frame))

    def _forget(self) -> None:
        pending_s = len(self._recognizer.pending()) / 2 / self._model_rate + _DELAY_S
        excess = len(self._recent) - 2 * round(pending_s * self._rate) - len(self._rest)
        if excess > 0:
            del self._recent[: excess // 2 * 2]


def _samples(frame: av.AudioFrame) -> bytes:
    return bytes(frame.planes[0])[: 2 * frame.samples]
