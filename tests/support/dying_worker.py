"""A stream's sessions where its worker dies, without the worker: one session after the other, given
what `supervisor` would give them."""

from typing import Any

import models
from modelserver.speech.messages import EOF
from modelserver.worker.model import SpeechModel
from supervisor import StreamAnswer, StreamSession

Input = bytes | str


def pieces(pcm: bytes, seconds: float, rate: int) -> list[Input]:
    """Return the inputs of a stream that sends `seconds` of audio at once."""
    size = 2 * int(seconds * rate)
    return [*(pcm[at : at + size] for at in range(0, len(pcm), size)), EOF]


def fed(session: StreamSession, data: Input, *, quiet: bool = False) -> StreamAnswer:
    """Return the answer to an input."""
    return models.run_steps(session.feed(data, quiet=quiet))


def answers_after_a_death(
    model: SpeechModel, request: dict[str, Any], inputs: list[Input], dies_after: int
) -> list[Any]:
    """Return what the caller gets if the worker dies after so many inputs."""
    first, checkpoint, before, kept = model.open(request, 0.0, None), None, 0.0, 0
    said: list[Any] = []
    units: list[float] = []
    for number, data in enumerate(inputs[:dies_after]):
        answer = fed(first, data)
        said += answer.values
        units.append(answer.units)
        if answer.checkpoint is not None:
            checkpoint = answer.checkpoint
        if answer.at_checkpoint:
            before, kept = sum(units), number + 1
    first.close()
    second = model.open(request, before, checkpoint)
    for number, data in enumerate(inputs[kept:], kept):
        answer = fed(second, data, quiet=number < dies_after)
        if number >= dies_after or answer.at_checkpoint:
            said += answer.values
    second.close()
    return said


def finals(said: list[Any]) -> list[Any]:
    """Return the final captions."""
    return [one for one in said if isinstance(one, dict) and one.get("kind") == "final"]
