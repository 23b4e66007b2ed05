"""The engine's own answers: JSON, as its clients know it."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

_KEY = re.compile(r'^(\s*"[a-z_]+"): ', re.MULTILINE)


def with_texts(answer: str, names: tuple[str, ...], written: Callable[[str], str]) -> str:
    """The engine's JSON with these of its texts written anew, laid out as the engine does."""
    said = msgspec.json.decode(answer)
    for part in (said, *said.get("alternatives", ())):
        for name in names:
            if name in part:
                part[name] = written(part[name])
    return _laid_out(said)


def _laid_out(said: Any) -> str:
    """Clients look for `"text" : "`, as the engine writes it."""
    text = msgspec.json.format(msgspec.json.encode(said), indent=2).decode()
    return _KEY.sub(r"\1 : ", text)
