"""Looks at an upload while it arrives, to refuse early what could not be taken anyway."""

from modelserver.audio.errors import too_long
from modelserver.audio.wav import WavHeader, parse_wav_header


class WavGate:
    """Fed with an upload's chunks; raises `AudioError` as soon as there is reason to."""

    def __init__(self, longest_audio_s: float) -> None:
        self._longest_audio_s = longest_audio_s
        self._prefix = bytearray()
        self._header: WavHeader | None = None
        self._received = 0

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the file. Raises `not_audio`, `unsupported_audio` or
        `audio_too_long`."""
        self._received += len(chunk)
        if self._header is None:
            self._prefix += chunk
            self._look(complete=False)
        if self._header is not None:
            self._must_be_short_enough(self._received - self._header.data_offset)

    def finish(self) -> float:
        """There is no more. Returns the seconds of audio; raises the same."""
        if self._header is None:
            self._look(complete=True)
        if self._header is None:
            return 0.0
        return self._header.seconds(self._received - self._header.data_offset)

    def _look(self, *, complete: bool) -> None:
        self._header = parse_wav_header(bytes(self._prefix), complete=complete)
        if self._header is not None:
            self._prefix.clear()
            self._must_be_short_enough(self._header.declared_bytes or 0)

    def _must_be_short_enough(self, data_bytes: int) -> None:
        assert self._header is not None
        seconds = self._header.seconds(data_bytes)
        if seconds > self._longest_audio_s:
            raise too_long(seconds, self._longest_audio_s)
