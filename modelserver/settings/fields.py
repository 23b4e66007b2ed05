"""Description of one setting: its name, variable, flag and bounds, and its value from text."""

import functools
import ipaddress
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect

from modelserver.outbound.hosts import AllowedHosts
from modelserver.settings.plugins import known_steps, unknown_step
from modelserver.settings.schema import ModelSettings, Section, Settings

ENVIRONMENT_PREFIX = "MODELSERVER_"

_ORIGIN = re.compile(
    r"\*|null|(?!http://[^/]*:80$)(?!https://[^/]*:443$)[a-z][a-z0-9+.-]*://[^/?#@\s]+"
)
"""A serialized origin (RFC 6454, section 6.2)."""
HIDDEN = "***"
"""Shown in place of a secret."""

NAMED = "models"
"""The section whose sections are models, each with a name of its own."""

_SIZE_IN_WORDS = 'a size in bytes, or text such as "64MiB"'
_USER_INFO = re.compile(r"(://)[^/?#\s]*@")
_QUERY_SECRET = re.compile(
    r"([?&][^=&#\s]*(?:token|key|secret|pass|sig|auth)[^=&#\s]*=)[^&#\s]*", re.IGNORECASE
)
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Field:
    """A setting: its dotted name, its annotated type, and what `schema` says of it."""

    name: str
    annotation: Any
    unit: str = ""
    """Kind of its text or of its parts: "bytes", "networks", "hosts", "origins" or "text steps"."""
    flag: str = ""
    """Command-line flag; empty if there is none."""
    per_model: bool = False
    """`[models.NAME]` may set it too."""
    restart: bool = False
    """A changed value takes effect at the next start, not at a reload."""
    prepares: Literal["", "needs", "makes"] = ""
    """True if the process that prepares a model needs the setting, or the setting also decides what
    is made."""

    @property
    def variable(self) -> str:
        """The name of its environment variable."""
        return variable_of(self.name)

    @property
    def about(self) -> str:
        """The text of its help."""
        metas = [meta.description for meta in self._metas() if meta.description]
        return metas[-1] if metas else ""

    @property
    def metavar(self) -> str:
        """The placeholder of its value in the help of its flag."""
        kind = get_args(self.annotation)[0]
        return "|".join(get_args(kind)) if get_origin(kind) is Literal else "VALUE"

    def shown(self, value: Any) -> Any:
        """Return `value` as it may be shown: "***" in place of secrets inside of URLs."""
        if isinstance(value, str):
            return without_secrets(value)
        if isinstance(value, tuple):
            return tuple(without_secrets(v) if isinstance(v, str) else v for v in value)
        return value

    @property
    def is_list(self) -> bool:
        """Return whether it is a list, written with commas in a variable or flag."""
        return isinstance(self._kind(), inspect.VarTupleType)

    @property
    def allowed(self) -> str:
        """A sentence about the values that it may have."""
        if self.unit == "networks":
            return 'a list of addresses or networks, such as "10.0.0.0/8"'
        if self.unit == "origins":
            return (
                'a list of origins as browsers send them, such as "https://example.org" or '
                '"http://192.0.2.7:3000", without a path and without a default port; or "*"'
            )
        if self.unit == "hosts":
            return 'a list of names, addresses or networks, such as "*.example.org", "10.0.0.0/8"'
        if self.unit == "text steps":
            return f"a list of installed text steps ({', '.join(known_steps())})"
        match kind := self._kind():
            case inspect.LiteralType(values=values):
                return " or ".join(str(value) for value in values)
            case inspect.IntType() if self.unit == "bytes":
                return _SIZE_IN_WORDS
            case inspect.UnionType() if self.unit == "bytes":
                return f"auto, or {_SIZE_IN_WORDS}"
            case inspect.IntType():
                return "a whole number" + _bounds(kind)
            case inspect.FloatType():
                return "a number" + _bounds(kind)
            case inspect.VarTupleType():
                return "text that is not empty, or a list of such"
            case inspect.StrType(pattern=str(pattern)) if "https?://" in pattern:
                return "a URL that begins with http:// or https://"
            case inspect.StrType(min_length=1):
                return "text that is not empty"
            case inspect.StrType() if not self.name.endswith("_file"):
                return "text"
            case _:
                return "a path"

    def convert(self, raw: Any) -> Any:
        """`raw` as this setting's type; from text, numbers and sizes are read.

        Raises `ValueError`.
        """
        value = raw
        if isinstance(raw, str) and self.name.endswith("_file") and raw.startswith("~"):
            value = str(_expanded(raw))
        if self.is_list and isinstance(raw, str):
            value = [part.strip() for part in raw.split(",") if part.strip()]
        elif self.unit == "bytes" and isinstance(raw, str) and raw != "auto":
            value = bytes_of(raw)
        converted = msgspec.convert(
            value, self.annotation, strict=not isinstance(raw, str), dec_hook=_to_path
        )
        if self.unit == "networks":
            for network in converted:
                ipaddress.ip_network(network, strict=False)
        if self.unit == "hosts":
            AllowedHosts(converted, self.name)
        if self.unit == "origins":
            converted = tuple(origin.lower() for origin in converted)  # as browsers send them
            if not all(_ORIGIN.fullmatch(origin) for origin in converted):
                raise ValueError(converted)
        if self.unit == "text steps" and (problem := unknown_step(converted)) is not None:
            raise ValueError(problem)
        return converted

    def text(self, value: Any) -> str:
        """Return `value` as `convert` reads it from text."""
        return ",".join(value) if isinstance(value, tuple) else str(value)

    def _kind(self) -> inspect.Type:
        """Return the type, without annotations and without None."""
        kind = inspect.type_info(self.annotation)
        while True:
            if isinstance(kind, inspect.Metadata):
                kind = kind.type
                continue
            some = [t for t in getattr(kind, "types", ()) if not isinstance(t, inspect.NoneType)]
            if len(some) != 1:
                return kind
            (kind,) = some

    def _metas(self) -> list[msgspec.Meta]:
        return [meta for meta in get_args(self.annotation)[1:] if isinstance(meta, msgspec.Meta)]


def variable_of(name: str) -> str:
    """Return the environment variable of the setting with this dotted name."""
    return ENVIRONMENT_PREFIX + name.replace(".", "_").upper()


def without_secrets(text: str) -> str:
    """Return `text` with "***" in place of a URL's user and password, and of what its query has
    under names such as "token" or "api_key"."""
    return _QUERY_SECRET.sub(r"\1***", _USER_INFO.sub(r"\1***@", text))


@functools.cache
def fields() -> tuple[Field, ...]:
    """Return the settings in the order of declaration."""
    return tuple(_fields_of(Settings, "", restart=False))


def named_fields(label: str) -> Iterator[Field]:
    """Yield the settings of one of several models, `[models.LABEL]`."""
    yield from _fields_of(ModelSettings, f"{NAMED}.{label}.", restart=False)
    for field in fields():
        if field.per_model:
            about = msgspec.Meta(description=f"as the setting `{field.name}`")
            yield Field(
                f"{NAMED}.{label}.{field.name}", Annotated[field.annotation, about], field.unit
            )


def value_of(settings: Settings, name: str) -> Any:
    """Return the value of the setting with this dotted name."""
    return operator.attrgetter(name)(settings)


def _fields_of(section: type[Section], prefix: str, *, restart: bool) -> Iterator[Field]:
    for name, annotation in get_type_hints(section, include_extras=True).items():
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from _fields_of(annotation, f"{prefix}{name}.", restart=annotation.restart)
        elif get_origin(annotation) is Annotated:
            facts: dict[str, Any] = {}
            for meta in get_args(annotation)[1:]:
                facts |= meta.extra or {}
            field = Field(prefix + name, annotation, **facts)
            yield replace(field, restart=restart or field.restart)


def _to_path(kind: type, value: Any) -> Path:
    if kind is Path and isinstance(value, str) and value:
        return _expanded(value)
    raise ValueError(value)


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # there is no such user
        raise ValueError(path) from error


def bytes_of(text: str) -> int:
    """Parse a size in bytes, such as "64MiB". Raises `ValueError`."""
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(text)
    number, prefix, binary = match.groups()
    base = 1024 if binary else 1000
    return int(float(number) * base ** " KMGT".index(prefix.upper() or " "))


def size_text(size: int) -> str:
    """Return a size as text: "64MiB" where that is exact."""
    for power, prefix in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{prefix}iB"
    return str(size)


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    low, high = kind.ge, kind.le
    if low is not None and high is not None:
        return f" from {low:.15g} to {high:.15g}"
    if kind.gt is not None:
        return f" above {kind.gt:.15g}"
    return f" of at least {low:.15g}" if low is not None else ""
