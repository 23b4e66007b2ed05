"""What a reasoning model writes before its answer, `<think>...</think>`: neither shown nor read
aloud.

Source: DeepSeek-R1 and Qwen3, as Ollama and llama.cpp pass their output on.
"""

from collections.abc import AsyncIterator

from modelserver.assistant.ending import Ending

_BEGIN, _END = ("<think>", "<thinking>"), ("</think>", "</thinking>")
_LONGEST = max(map(len, _END))


async def without_thoughts(said: AsyncIterator[str | Ending]) -> AsyncIterator[str | Ending]:
    """Yield pieces of an answer without the thoughts that it begins with."""
    begun = thinking = thought = False
    held = ""
    """What has come, and may be a part of a tag, or is a thought."""
    async for piece in said:
        if begun or isinstance(piece, Ending):
            if held and not thinking:
                yield held
            held = ""
            yield piece
            continue
        held += piece
        if not thinking:
            start = held.lstrip()
            if any(one.startswith(start) and one != start for one in _BEGIN):
                continue
            thinking = start.startswith(_BEGIN)
        if thinking:
            end = max((held.find(one) + len(one) for one in _END if one in held), default=0)
            if not end:
                held = held[-_LONGEST:] if len(held) > 2 * _LONGEST else held
                continue
            thinking, thought, held = False, True, held[end:]
        if thought:
            held = held.lstrip()
        if held:
            begun = True
            yield held
            held = ""
