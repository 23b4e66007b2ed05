"""Errors of the engine and of the audio, converted for the supervisor."""

import contextlib
from collections.abc import Iterator

import models
from modelserver.audio.errors import AudioError
from supervisor import JobError


@contextlib.contextmanager
def as_job_errors() -> Iterator[None]:
    """Turn errors of the model and of the audio into `JobError`, with their code and sentence."""
    try:
        yield
    except (models.ModelError, AudioError) as error:
        raise JobError(error.code, error.message) from error
