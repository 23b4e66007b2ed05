"""Answers of the Vosk project's protocol: utterances and partial results as its library writes
them, to the byte.

Source: alphacep/vosk-api, `src/recognizer.cc` and `src/json.h`.
"""

from collections.abc import Sequence

import msgspec

import models

_TAB = "  "
_NOTHING_CAME = '{"text": ""}'
_NOTHING_CAME_ALTERNATIVES = '{"alternatives" : [{"text": "", "confidence" : 1.0}] }'

_Json = str | float | list["_Json"] | dict[str, "_Json"]


def final_answer(utterances: Sequence[models.Utterance], *, alternatives: bool) -> str:
    """Return the one answer for what was said up to an endpoint. `alternatives`: the client has
    asked for them."""
    if not utterances:  # no audio came since the last answer
        return _NOTHING_CAME_ALTERNATIVES if alternatives else _NOTHING_CAME
    text = " ".join(utterance.text for utterance in utterances if utterance.text)
    words = [word for utterance in utterances for word in utterance.words]
    if not alternatives:
        return _dump({**_words("result", words), "text": text})
    readings = utterances[0].alternatives if len(utterances) == 1 else ()
    listed: list[_Json] = [
        {"confidence": one.confidence, **_words("result", one.words), "text": one.text}
        for one in readings
    ]
    return _dump({"alternatives": listed or [{**_words("result", words), "text": text}]})


def partial_answer(partial: models.Partial) -> str:
    """Return the answer for an utterance that has not ended."""
    return _dump({"partial": partial.text, **_words("partial_result", partial.words)})


def _words(key: str, words: Sequence[models.Word]) -> dict[str, _Json]:
    listed: list[_Json] = []
    for word in words:
        sure: dict[str, _Json] = {} if word.confidence is None else {"conf": word.confidence}
        listed.append({**sure, "end": word.end_s, "start": word.start_s, "word": word.text})
    return {key: listed} if listed else {}


def _dump(value: _Json, depth: int = 1) -> str:
    """Lay it out as that library does, which its clients rely on: keys in the order of letters,
    six decimals."""
    match value:
        case str():
            return msgspec.json.encode(value).decode()
        case list():
            return f"[{', '.join(_dump(one, depth + 1) for one in value)}]"
        case dict():
            inside = (
                f'{_TAB * depth}"{key}" : {_dump(one, depth + 1)}' for key, one in value.items()
            )
            return "{\n" + ",\n".join(inside) + f"\n{_TAB * (depth - 1)}}}"
        case _:
            return f"{value:f}"
