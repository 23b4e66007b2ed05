"""A model that recognises whole utterances and is late with them: it waits for audio after the
pause that ends one, and gives no words with times. A word is a stretch of one loudness."""

import array
from collections.abc import Generator, Iterator

import models
from modelserver.worker.model import SpeechModel
from modelserver.worker.profiles import ProfiledModel
from modelserver.worker.text_steps import TextSteps, WritingModel

RATE = 8000
STEP = 1000
"""A word of loudness 3 x `STEP` is "w3", an utterance "w3 w1."; 9 is of another language."""
PAUSE_S, LATE_S = 0.3, 0.5


def word(number: int, seconds: float = 0.2) -> bytes:
    """Audio of a word; others follow after a gap or a pause."""
    return array.array("h", [number * STEP] * int(seconds * RATE)).tobytes()


def gap(seconds: float = 0.1) -> bytes:
    """Silence, within an utterance if it is shorter than `PAUSE_S`."""
    return bytes(2 * int(seconds * RATE))


class LateModel:
    """Implements `models.Model`."""

    def __init__(self) -> None:
        self.sample_rate, self.chunk_bytes = RATE, 2 * RATE // 4
        self.abilities = models.Abilities(
            streaming=False,
            words=False,
            confidences=False,
            alternatives=False,
            languages=("zh", "en"),
            detects_language=True,
            written=True,
            longest_s=20.0,
        )
        self.asked: list[models.RecognitionOptions] = []

    def warm(self, pcm: list[bytes]) -> None: ...

    def recognizer(
        self, options: models.RecognitionOptions, rate: float | None = None
    ) -> "LateRecognizer":
        assert rate in (None, RATE)
        assert not options.words
        assert not options.alternatives
        self.asked.append(options)
        return LateRecognizer(options.language)

    def ignored_keywords(self, keywords: tuple[str, ...]) -> list[str]:
        return []

    def unknown_words(self, phrases: tuple[str, ...]) -> list[str]:
        return []

    def report(self) -> dict[str, object]:
        return {"engine": "late"}


class LateRecognizer:
    """Implements `models.Recognizer`."""

    def __init__(self, language: str) -> None:
        self._language = language
        self._samples = array.array("h")
        self._before = 0

    def accept(self, pcm: bytes) -> Generator[None, None, list[models.Utterance]]:
        self._samples.frombytes(pcm)
        said = []
        while (found := self._first(int(LATE_S * RATE))) is not None:
            yield
            said.append(self._take(*found))
        return said

    def partial(self) -> models.Partial:
        return models.Partial(self._text(self._samples))

    def finish(self) -> Generator[None, None, list[models.Utterance]]:
        yield
        said = []
        while (found := self._first(0)) is not None:
            said.append(self._take(*found))
        if self._text(self._samples):
            said.append(self._take(*self._bounds(self._samples)))
        self._before += len(self._samples)
        self._samples = array.array("h")
        return said

    def pending(self) -> bytes:
        return self._samples.tobytes()

    def close(self) -> None: ...

    def _first(self, late: int) -> tuple[int, int] | None:
        """Bounds of the first utterance that has ended, if so many samples came after it."""
        pause = int(PAUSE_S * RATE)
        samples = self._samples
        begin = next((at for at, one in enumerate(samples) if one), None)
        quiet = 0
        for at in range(begin or 0, len(samples)) if begin is not None else ():
            quiet = 0 if samples[at] else quiet + 1
            if quiet == pause and begin is not None:
                return (begin, at + 1 - pause) if len(samples) - at - 1 >= late else None
        return None

    @staticmethod
    def _bounds(samples: "array.array[int]") -> tuple[int, int]:
        loud = [at for at, one in enumerate(samples) if one]
        return loud[0], loud[-1] + 1

    def _take(self, begin: int, end: int) -> models.Utterance:
        text = self._text(self._samples[begin:end])
        language = self._language or ("en" if "w9" in text else "zh")
        utterance = models.Utterance(
            f"{text}.",
            start_s=(self._before + begin) / RATE,
            end_s=(self._before + end) / RATE,
            language=language,
        )
        self._before += end
        self._samples = self._samples[end:]
        return utterance

    @staticmethod
    def _text(samples: "array.array[int]") -> str:
        return " ".join(LateRecognizer._words(samples))

    @staticmethod
    def _words(samples: "array.array[int]") -> Iterator[str]:
        last = 0
        for one in samples:
            if one and one != last:
                yield f"w{one // STEP}"
            last = one


def load(text_steps: tuple[str, ...] = ()) -> SpeechModel:
    """Make it as a worker serves it."""
    steps = TextSteps(text_steps, "zh")
    steps.leave_written()
    model: models.Model = ProfiledModel(LateModel(), models.DEFAULT_PROFILE)
    if text_steps:
        model = WritingModel(model, steps)
    return SpeechModel(model, "late", "zh", "none", steps)
