"""Parameters of a request, in the query or in the fields of a form or of JSON: same names."""

import contextlib
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from models import PROFILES
from modelserver.audio.channels import MIX, channel_choice
from modelserver.audio.formats import RawFormat, raw_format, type_encoding
from modelserver.http.decoding import decoded
from modelserver.refusal import Refusal
from modelserver.request.endpoints import read_endpoint_ms, read_max_utterance_s
from modelserver.request.headers import media_type, parameter
from modelserver.speech.languages import language_tag
from modelserver.speech.phrases import keyword_list, phrase_list

_BOTH_NAMES = (
    "model", "language", "words", "alternatives", "phrases", "keywords", "profile", "channels",
    "encoding", "rate", "channel_count", "endpoint_ms", "max_utterance_s",
)  # fmt: skip
NAMES = (*_BOTH_NAMES, "segments", "format")
"""Parameters of a file."""
ASK_NAMES = (
    "model", "language", "phrases", "keywords", "channels", "encoding", "rate", "channel_count",
    "history", "stream",
)  # fmt: skip
"""Parameters of a question."""
JOB_NAMES = (*NAMES, "url", "webhook")
"""Parameters of a job."""
STREAM_NAMES = (*_BOTH_NAMES, "partials", "second_pass")
"""Parameters of a live stream."""
FORMATS = ("json", "text", "srt", "vtt")
_RAW_NAMES = {"encoding", "rate", "channel_count"}
LISTS = ("phrases", "keywords")
"""Parameters that may be there several times, once for each value."""
MOST_ALTERNATIVES = 20
_IGNORED = ("_",)
"""Parameters that browsers add so that no cache stores the answer."""

_TRUE, _FALSE = ("true", "1", "yes", "on", "y", "t"), ("false", "0", "no", "off", "n", "f", "")
FLAG_VALUES = (*_TRUE, *_FALSE)
"""Values of parameters that are true or false."""
_ANY_LANGUAGE = ("", "auto", "any", "und", "mul")
_LONGEST_LANGUAGE = 100
_LONGEST_COMPARED = 30
"""Most characters of an unknown name that is compared with known ones."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a request. `channels` as `audio.channels.channel_choice` takes it."""

    model: str | None = None
    language: str | None = None
    words: bool = False
    segments: bool = False
    format: str = "json"
    partials: bool = True
    second_pass: bool = False
    alternatives: int = 0
    phrases: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    profile: str = ""
    """Empty: the model's own."""
    endpoint_ms: int = 0
    max_utterance_s: float = 0.0
    channels: str = MIX
    raw: RawFormat | None = None
    url: str | None = None
    webhook: str | None = None
    history: str = ""
    """JSON, as it came."""
    stream: bool = False


def read_parameters(
    query: Iterable[tuple[str, str]],
    fields: Mapping[str, str],
    content_type: str,
    names: tuple[str, ...] = NAMES,
) -> tuple[Parameters, list[str]]:
    """Read the parameters from the query, the fields of the body, and its media type. Returns them,
    and warnings. Raises `Refusal`."""
    values, warnings = _collect(query, fields, names)
    read = {name: _READERS[name](text) for name, text in values.items() if name in _READERS}
    channels, raw = _channels(values.get("channels", "")), _raw(values, content_type)
    return Parameters(**read, channels=channels, raw=raw), warnings


def _collect(
    query: Iterable[tuple[str, str]], fields: Mapping[str, str], names: tuple[str, ...]
) -> tuple[dict[str, str], list[str]]:
    values: dict[str, str] = {}
    warnings: list[str] = []
    for name, value in query:
        if name in _IGNORED:
            continue
        if name not in names:
            raise Refusal("bad_parameter", _unknown(name, names))
        if name in LISTS and name in values:  # one each time
            values[name] += f"\n{value}"
            continue
        if values.setdefault(name, value) != value:
            raise Refusal("bad_parameter", f"{name} is given twice, with different values")
    for name, value in fields.items():
        if name not in names:
            if _close_to(name, names, 0.75):
                raise Refusal("bad_parameter", _unknown(name, names))
            warnings.append(f"the field {name[:40]!r} is not known, and was ignored")
            continue
        if values.setdefault(name, value) != value:
            raise Refusal(
                "bad_parameter", f"{name} is given in the query and in the body, differently"
            )
    return values, warnings


def _unknown(name: str, names: tuple[str, ...]) -> str:
    close = _close_to(name, names, 0.6)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"there is no parameter {name[:60]!r}; {meant}there are: {', '.join(names)}"


def _close_to(name: str, names: tuple[str, ...], cutoff: float) -> list[str]:
    if len(name) > _LONGEST_COMPARED:
        return []
    return difflib.get_close_matches(name, names, n=1, cutoff=cutoff)


def _format(text: str) -> str:
    if text not in FORMATS:
        raise Refusal(
            "bad_parameter", f"format={text[:40]!r} is not known; there are: {', '.join(FORMATS)}"
        )
    return text


def _alternatives(text: str) -> int:
    count = _number("alternatives", text) or 0
    if count > MOST_ALTERNATIVES:
        raise Refusal(
            "bad_parameter",
            f"alternatives={count} is not allowed: expected 0 to {MOST_ALTERNATIVES}",
        )
    return count


def read_list(text: str) -> list[Any]:
    """Read a JSON list, or texts one a line."""
    if text.lstrip().startswith("["):
        with contextlib.suppress(Refusal):  # "[unk]" on a line of its own
            return decoded(text, list[Any])
    return text.splitlines()


def read_flag(name: str, text: str) -> bool:
    """Read true or false, as people write them. Raises `Refusal`."""
    wanted = text.strip().lower()
    if wanted not in _TRUE + _FALSE:
        raise Refusal(
            "bad_parameter", f"{name}={text[:40]!r} is not allowed: expected true or false"
        )
    return wanted in _TRUE


def read_profile(text: str) -> str:
    """Read the name of a profile, or nothing. Raises `Refusal`."""
    wanted = text.strip().lower()
    if wanted and wanted not in PROFILES:
        raise Refusal(
            "bad_parameter", f"profile={text[:40]!r} is not known; there are: {', '.join(PROFILES)}"
        )
    return wanted


def read_language(text: str) -> str | None:
    """Read a language tag, or a language's name; None for any language. Raises `Refusal`."""
    if text.strip().lower() in _ANY_LANGUAGE:
        return None
    if len(text) > _LONGEST_LANGUAGE or (tag := language_tag(text)) is None:
        raise Refusal(
            "bad_parameter",
            f"language={text[:40]!r} is not a language tag: send one such as zh or en-US, or auto",
        )
    return tag


def _channels(text: str) -> str:
    """Return which channels are recognised; wrong values are refused before anything is sent."""
    channel_choice(text or MIX)
    return text or MIX


def _raw(values: Mapping[str, str], content_type: str) -> RawFormat | None:
    """Return the form of the samples, if they are sent without a container."""
    kind = media_type(content_type)
    named = type_encoding(kind)
    if named is None and ";" not in content_type and not values.keys() & _RAW_NAMES:
        return None
    rate = _number("rate", values.get("rate") or parameter(content_type, "rate"))
    if "encoding" in values:
        encoding = values["encoding"]
    elif named is not None:
        encoding = named[0]
        rate = rate or named[1]
        if rate is None and kind not in ("audio/l8", "audio/l16", "audio/l24"):
            return None  # a name that files are sent under, too
    else:
        for name in ("rate", "channel_count"):
            if name in values:
                raise Refusal(
                    "bad_parameter", f"{name} is for samples without a header: add encoding"
                )
        return None
    count = _number("channel_count", values.get("channel_count"))
    if count is None:
        count = _number("channels", parameter(content_type, "channels"))
    asked = values.get("channels", "").strip()
    if count is None and asked.isascii() and asked.isdecimal():
        raise Refusal(
            "bad_parameter",
            f"channels={asked[:40]} selects a channel: add channel_count, the number of channels",
        )
    if count is None:
        count = channel_choice(asked or MIX).least
    return raw_format(encoding, rate, count)


def _number(name: str, text: str | None) -> int | None:
    if text is None or not text.strip():
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()):
        raise Refusal("bad_parameter", f"{name}={text[:40]!r} is not a number")
    return int(text)


def _text(text: str) -> str | None:
    return text or None


_READERS: dict[str, Callable[[str], Any]] = {
    "model": _text,
    "language": read_language,
    "format": _format,
    "alternatives": _alternatives,
    "phrases": lambda text: phrase_list(read_list(text)),
    "keywords": lambda text: keyword_list(read_list(text)),
    "profile": read_profile,
    "endpoint_ms": lambda text: read_endpoint_ms(text or "0"),
    "max_utterance_s": lambda text: read_max_utterance_s(text or "0"),
    "url": _text,
    "webhook": _text,
    "history": str,
    **{
        name: partial(read_flag, name)
        for name in ("words", "segments", "partials", "second_pass", "stream")
    },
}
"""Function that reads each parameter from its text, but for those of channels and raw samples."""
