"""Utterances with other times: recognisers count from the first sample that they are given."""

from collections.abc import Callable
from dataclasses import replace

import models

Move = Callable[[float], float]
"""Function from a time in seconds to another one."""


def retimed_words(words: tuple[models.Word, ...], move: Move) -> tuple[models.Word, ...]:
    """Return the words with their times moved."""
    return tuple(
        replace(word, start_s=move(word.start_s), end_s=move(word.end_s)) for word in words
    )


def retimed(utterance: models.Utterance, move: Move) -> models.Utterance:
    """Return the utterance with all of its times moved."""
    return replace(
        utterance,
        words=retimed_words(utterance.words, move),
        alternatives=tuple(
            replace(other, words=retimed_words(other.words, move))
            for other in utterance.alternatives
        ),
        start_s=None if utterance.start_s is None else move(utterance.start_s),
        end_s=None if utterance.end_s is None else move(utterance.end_s),
    )
