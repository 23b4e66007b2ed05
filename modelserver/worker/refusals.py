"""Errors of the engine and of the audio, converted for the supervisor."""

import contextlib
from collections.abc import Iterator

import models
from modelserver.audio.errors import AudioError
from supervisor import JobError


@contextlib.contextmanager
def told_to_the_caller() -> Iterator[None]:
    """Around work that may be refused: the code and the sentence arrive at the caller."""
    try:
        yield
    except (models.ModelError, AudioError) as error:
        raise JobError(error.code, error.message) from error
