"""Requests limited to the abilities of a model (`models.Abilities`)."""

from dataclasses import replace
from typing import Protocol

import models
from modelserver.speech.languages import closest_language
from modelserver.speech.phrases import named, not_known
from modelserver.worker.text_steps import TextSteps

_INSTEAD = "the text step vocabulary (text.steps) corrects words that sound like them"


class _Asked(Protocol):
    @property
    def alternatives(self) -> int: ...
    @property
    def phrases(self) -> tuple[str, ...]: ...
    @property
    def keywords(self) -> tuple[str, ...]: ...
    @property
    def model_keywords(self) -> int: ...
    @property
    def profile(self) -> str: ...
    @property
    def language(self) -> str: ...


def within(
    options: models.RecognitionOptions, abilities: models.Abilities
) -> models.RecognitionOptions:
    """Return the options without what the model cannot do. Raises `models.ModelError` for phrases:
    without them the result would be useless."""
    if options.grammar and abilities.phrases == "no":
        raise models.ModelError("grammar_unsupported", "this model cannot be limited to phrases")
    return replace(
        options,
        words=options.words and abilities.words,
        partial_words=options.partial_words and abilities.words,
        alternatives=options.alternatives if abilities.alternatives else 0,
        profile=options.profile if options.profile in abilities.profiles else "",
        language=closest_language(options.language, abilities.languages) or "",
    )


def not_as_asked(model: models.Model, steps: TextSteps, asked: _Asked, *, words: bool) -> list[str]:
    """Return warnings about parts of a request that the model, with its `steps`, cannot fulfil.
    `words`: the client has asked for them."""
    abilities = model.abilities
    said = not_known(model.unknown_words(asked.phrases))
    if asked.phrases and abilities.phrases == "rather":
        said.append("phrases: this model prefers them, and recognises other words too")
    if words and not abilities.words:
        said.append("words: this model gives no words with times")
    elif words and not abilities.confidences:
        said.append("words: this model gives no confidences")
    if asked.alternatives and not abilities.alternatives:
        said.append("alternatives: this model gives none")
    if (
        asked.language
        and abilities.languages
        and closest_language(asked.language, abilities.languages) is None
    ):
        known = ", ".join(abilities.languages)
        said.append(f"language {asked.language!r}: this model has {known}")
    return said + _not_preferred(model, steps, asked) + not_available(model, asked.profile)


def _not_preferred(model: models.Model, steps: TextSteps, asked: _Asked) -> list[str]:
    """Return the warnings about keywords of the client that make no difference."""
    keywords = asked.keywords[: len(asked.keywords) - asked.model_keywords]
    if not keywords:
        return []
    if steps.use_keywords:
        return steps.with_keywords(asked.keywords).keyword_warnings
    if not model.abilities.keywords:
        return [f"keywords: this model cannot prefer them; {_INSTEAD}"]
    if ignored := model.ignored_keywords(keywords):
        return [f"keywords that the model has no letters or no room for: {named(ignored)}"]
    return []


def not_available(model: models.Model, profile: str) -> list[str]:
    """Return the warning about a profile that makes no difference."""
    if profile in ("", models.DEFAULT_PROFILE, *model.abilities.profiles):
        return []
    return [f"profile {profile!r}: how widely this model searches cannot be changed"]
