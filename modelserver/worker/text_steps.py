"""Text steps, which workers apply one after the other to recognised text.

A step is found by its name among the entry points of the group `modelserver.text_steps`, and so may
come from any installed package. It is made for a language and converts a final text to another one;
an engine's words, and text that may still change, stay as spoken.
"""

import re
from collections.abc import Callable, Generator, Iterable, Mapping
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import models
from modelserver.settings.plugins import PUNCTUATION, load_step, unknown_step
from modelserver.speech.transcript import reader_text
from modelserver.worker.wrapped import WrappedModel
from supervisor import StreamAnswer

TextStep = Callable[[str], str]
"""Function from text to text. Called in a worker's sandbox: a step has to read its files when it is
made, or at the first call, which happens before the sandbox is closed."""


@runtime_checkable
class KeywordStep(Protocol):
    """A step that can make use of a request's keywords (`models.RecognitionOptions.keywords`)."""

    def __call__(self, text: str) -> str:
        """Take a text of a request without keywords."""
        ...

    def with_keywords(self, keywords: tuple[str, ...]) -> TextStep:
        """Return the step for requests with these keywords. Called in workers' sandboxes, too; the
        results for the last few lists are kept."""
        ...


Maker = Callable[[str], TextStep | None]
"""Function that makes the step for a language (a BCP 47 tag); None for an unsupported one."""

_WRITTEN = {
    "numbers": "not needed: the model writes numbers itself",
    PUNCTUATION: "not needed: the model writes punctuation itself",
}
"""Steps that do nothing to texts as people write them, and the report of each."""
_SAMPLE = "one 一 1"
_SPACES = re.compile(r"[ \t]+")
_KEYWORD_LISTS = 2
"""Lists of keywords whose steps are remembered: one takes up to 5 MB, in each worker."""


class TextSteps:
    """The steps of one model."""

    def __init__(
        self, names: Iterable[str], language: str, own: Mapping[str, Maker] | None = None
    ) -> None:
        """Make the steps. `own`: makers of steps that are not entry points. Raises
        `models.ModelError` for a step that does not exist, or does not work."""
        own = own or {}
        self._steps: list[tuple[str, TextStep]] = []
        self._texts_written = False
        self.report: dict[str, str] = {}
        """State of each step in that language, for people."""
        self.keyword_warnings: list[str] = []
        """Warnings about steps that cannot use the keywords of `with_keywords`."""
        self._made_with = lru_cache(maxsize=_KEYWORD_LISTS)(self._make_with)
        for name in names:
            if (problem := unknown_step([name])) is not None:
                raise models.ModelError("text_step", problem)
            try:
                step = (own.get(name) or load_step(name))(language)
                if step is not None:
                    step(_SAMPLE)
            except Exception as error:  # whatever a plugin raises
                raise models.ModelError(
                    "text_step",
                    f"the text step {name!r} cannot be used: {error or type(error).__name__}",
                ) from error
            self.report[name] = "in use" if step is not None else f"does not support {language}"
            if step is not None:
                self._steps.append((name, step))

    def leave_written(self) -> None:
        """Treat texts as written by people (`models.Abilities.written`) from now on: leave their
        spaces and numbers alone."""
        self._texts_written = True
        self._steps = [(name, step) for name, step in self._steps if name not in _WRITTEN]
        self.report |= {name: why for name, why in _WRITTEN.items() if name in self.report}

    def for_request(self, keywords: tuple[str, ...], *, phrases: bool) -> "TextSteps":
        """Return the steps for a request with these keywords. `phrases`: it is limited to phrases,
        which its client compares with its own, so they get no marks."""
        made = self.with_keywords(keywords)
        if phrases and PUNCTUATION in self.report:
            made = copy(made)
            made._steps = [(name, step) for name, step in made._steps if name != PUNCTUATION]
        return made

    @property
    def use_keywords(self) -> bool:
        """True if a step corrects texts by keywords."""
        return any(isinstance(step, KeywordStep) for _, step in self._steps)

    def with_keywords(self, keywords: tuple[str, ...]) -> "TextSteps":
        """Return the steps for a request with these keywords."""
        return self._made_with(keywords) if keywords and self.use_keywords else self

    def _make_with(self, keywords: tuple[str, ...]) -> "TextSteps":
        made = copy(self)
        made._steps, made.keyword_warnings = [], []
        for name, step in self._steps:
            if isinstance(step, KeywordStep):
                try:
                    step = step.with_keywords(keywords)
                except Exception as error:  # noqa: BLE001 - whatever a plugin raises
                    why = f"{error or type(error).__name__}"
                    made.keyword_warnings.append(
                        f"keywords: the text step {name} cannot use them: {why}"
                    )
            made._steps.append((name, step))
        return made

    def written(self, spoken: str) -> str:
        """Return the text as people write it. A step that fails leaves the text as it was: a number
        in words is better than no answer."""
        text = reader_text([spoken], written=self._texts_written)
        for _, step in self._steps if text else ():
            try:
                text = _SPACES.sub(" ", step(text)).strip()
            except Exception:  # noqa: BLE001, S112 - whatever a plugin raises
                continue
        return text


class WritingModel(WrappedModel):
    """Model whose final texts have gone through the steps, in every API."""

    def __init__(self, model: models.Model, steps: TextSteps) -> None:
        super().__init__(model)
        self._steps = steps

    def recognizer(
        self, options: models.RecognitionOptions, rate: float | None = None
    ) -> models.Recognizer:
        """See `models.Model`."""
        steps = self._steps.for_request(options.keywords, phrases=options.grammar is not None)
        return _WritingRecognizer(self._model.recognizer(options, rate), steps)

    def report(self) -> dict[str, Any]:
        """See `models.Model`."""
        return {**self._model.report(), "text_steps": self._steps.report}


class TextStream:
    """Texts that were spoken in, the same as they are written out (`supervisor.StreamSession`)."""

    def __init__(self, steps: TextSteps) -> None:
        self._steps = steps

    def feed(self, data: Any, *, quiet: bool) -> Generator[None, None, StreamAnswer]:
        """Apply the steps to a list of texts."""
        written = []
        for text in data:
            yield
            written.append(self._steps.written(text))
        return StreamAnswer([written], at_checkpoint=True)

    def close(self) -> None:
        """Do nothing: the recogniser holds no resources."""


class _WritingRecognizer:
    def __init__(self, inner: models.Recognizer, steps: TextSteps) -> None:
        self._inner, self._steps = inner, steps
        self.partial, self.pending, self.close = inner.partial, inner.pending, inner.close

    def accept(self, pcm: bytes) -> Generator[None, None, list[models.Utterance]]:
        return (yield from self._written((yield from self._inner.accept(pcm))))

    def finish(self) -> Generator[None, None, list[models.Utterance]]:
        return (yield from self._written((yield from self._inner.finish())))

    def _written(
        self, said: list[models.Utterance]
    ) -> Generator[None, None, list[models.Utterance]]:
        """Write each text in a step of its own: there may be a hundred alternatives."""
        written = []
        for utterance in said:
            texts: dict[str, str] = {}  # the first alternative is the text
            for spoken in (utterance.text, *(other.text for other in utterance.alternatives)):
                if spoken not in texts:
                    if texts:
                        yield
                    texts[spoken] = self._steps.written(spoken)
            alternatives = tuple(
                replace(other, text=texts[other.text]) for other in utterance.alternatives
            )
            written.append(
                replace(utterance, text=texts[utterance.text], alternatives=alternatives)
            )
        return written
