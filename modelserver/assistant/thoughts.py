"""Thoughts of a reasoning model, `<think>...</think>`, told apart from the answer that follows.

Source: DeepSeek-R1 and Qwen3, as Ollama and llama.cpp pass their output on.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from modelserver.assistant.ending import Ending

_BEGIN, _END = ("<think>", "<thinking>"), ("</think>", "</thinking>")


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of what the model has thought."""

    text: str


Said = str | Thought | Ending


async def tell_thoughts_apart(said: AsyncIterator[Said]) -> AsyncIterator[Said]:
    """Yield the pieces of an answer, those of the thoughts that it begins with as `Thought`."""
    thinking = thought = False
    held = ""
    """Text that may be a part of a tag, or blank text between the thoughts and the answer."""
    async for piece in said:
        if not isinstance(piece, str):
            if held and isinstance(piece, Ending) and not thought:
                yield Thought(held) if thinking else held
                held = ""
            yield piece
            continue
        held += piece
        if not thinking and not thought:
            start = held.lstrip()
            if any(tag.startswith(start) and tag != start for tag in _BEGIN):
                continue
            if tag := next((tag for tag in _BEGIN if start.startswith(tag)), ""):
                thinking, held = True, start[len(tag) :]
        if thinking:
            if tag := next((tag for tag in _END if tag in held), ""):
                inside, _, held = held.partition(tag)
                thinking, thought = False, True
            else:
                end = len(held) - _begun(held)
                inside, held = held[:end], held[end:]
            if inside:
                yield Thought(inside)
        if thought:
            held = held.lstrip()
        if held and not thinking:
            yield held
            break
    async for piece in said:
        yield piece


def _begun(text: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of a closing tag."""
    lengths = range(min(len(text), max(map(len, _END))), 0, -1)
    return next((n for n in lengths if any(tag.startswith(text[-n:]) for tag in _END)), 0)
