"""What is done to a text once it is recognised: steps, one after the other, in the workers.

A step is found by its name among the entry points of the group `modelserver.text_steps`, and so may
come from any installed package. It is made for a language and takes a final text to another one;
what an engine says of words, and what may still change, is left as it was spoken.
"""

import re
from collections.abc import Callable, Generator, Iterable
from typing import Any

import models
from modelserver.settings.plugins import load_step, unknown_step
from modelserver.speech.engine_answers import with_texts
from modelserver.speech.transcript import reader_text
from modelserver.worker.wrapped import WrappedModel
from supervisor import StreamAnswer

TextStep = Callable[[str], str]
"""From a text to a text. Called in a worker's sandbox: what it needs of files has to be read when
it is made, or at the first call, which is made before."""

Maker = Callable[[str], TextStep | None]
"""Makes the step for a language (a BCP 47 tag); None where it knows nothing of that language."""

_SAMPLE = "one 一 1"
_SPACES = re.compile(r"[ \t]+")


class TextSteps:
    """The steps of one model."""

    def __init__(self, names: Iterable[str], language: str) -> None:
        """Raises `models.ModelError` for a step that is not there, or does not work."""
        self._steps: list[TextStep] = []
        self.report: dict[str, str] = {}
        """Of each, whether it does something in that language."""
        for name in names:
            if (problem := unknown_step([name])) is not None:
                raise models.ModelError("text_step", problem)
            try:
                step = load_step(name)(language)
                if step is not None:
                    step(_SAMPLE)
            except Exception as error:  # whatever a plugin raises
                raise models.ModelError(
                    "text_step",
                    f"the text step {name!r} cannot be used: {error or type(error).__name__}",
                ) from error
            self.report[name] = "in use" if step is not None else f"knows nothing of {language}"
            if step is not None:
                self._steps.append(step)

    def written(self, spoken: str) -> str:
        """As people write it. A step that fails leaves its text as it was: a number in words is
        better than no answer."""
        text = reader_text([spoken])
        for step in self._steps if text else ():
            try:
                text = _SPACES.sub(" ", step(text)).strip()
            except Exception:  # noqa: BLE001, S112 - whatever a plugin raises
                continue
        return text


class WritingModel(WrappedModel):
    """A model whose final texts have gone through the steps, whoever asks."""

    def __init__(self, model: models.Model, steps: TextSteps) -> None:
        super().__init__(model)
        self._steps = steps

    def recognizer(self, options: models.RecognitionOptions) -> models.Recognizer:
        """See `models.Model`."""
        return _WritingRecognizer(self._model.recognizer(options), self._steps)

    def live(self, sample_rate: float, options: models.RecognitionOptions) -> models.LiveRecognizer:
        """See `models.Model`."""
        return _WritingLive(self._model.live(sample_rate, options), self._steps)

    def report(self) -> dict[str, Any]:
        """See `models.Model`."""
        return {**self._model.report(), "text_steps": self._steps.report}


class TextStream:
    """Texts that were spoken in, the same as they are written out (`supervisor.StreamSession`)."""

    def __init__(self, steps: TextSteps) -> None:
        self._steps = steps

    def feed(self, data: Any, *, quiet: bool) -> Generator[None, None, StreamAnswer]:
        """A list of texts."""
        yield
        return StreamAnswer([[self._steps.written(text) for text in data]], at_checkpoint=True)

    def close(self) -> None:
        """There is nothing to let go."""


class _WritingRecognizer:
    def __init__(self, inner: models.Recognizer, steps: TextSteps) -> None:
        self._inner, self._steps = inner, steps

    def accept(self, pcm: bytes) -> models.Utterance | None:
        utterance = self._inner.accept(pcm)
        return None if utterance is None else self._written(utterance)

    def partial(self) -> models.Partial:
        return self._inner.partial()

    def finish(self) -> models.Utterance:
        return self._written(self._inner.finish())

    def close(self) -> None:
        self._inner.close()

    def _written(self, utterance: models.Utterance) -> models.Utterance:
        return models.Utterance(
            self._steps.written(utterance.text),
            utterance.words,
            tuple(
                models.Alternative(self._steps.written(a.text), a.confidence, a.words)
                for a in utterance.alternatives
            ),
        )


class _WritingLive:
    """Of the engine's own JSON only the final texts are written anew."""

    def __init__(self, inner: models.LiveRecognizer, steps: TextSteps) -> None:
        self._inner, self._steps = inner, steps

    def accept(self, pcm: bytes) -> Generator[None, None, bool]:
        return (yield from self._inner.accept(pcm))

    def result(self) -> str:
        return self._written(self._inner.result())

    def partial(self) -> str:
        return self._inner.partial()

    def final(self) -> str:
        return self._written(self._inner.final())

    def _written(self, answer: str) -> str:
        return with_texts(answer, ("text",), self._steps.written)
