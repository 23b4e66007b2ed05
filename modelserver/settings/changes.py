"""Settings beside other settings: with some values replaced, and where two differ."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec.structs

from modelserver.settings.fields import Field, fields, value_of
from modelserver.settings.schema import Section, Settings


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Return `settings` with these values, by dotted name."""
    return _replaced(settings, values)


_AnySection = TypeVar("_AnySection", bound=Section)


def _replaced(section: _AnySection, values: Mapping[str, Any]) -> _AnySection:
    direct: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        first, _, rest = name.partition(".")
        if rest:
            inner.setdefault(first, {})[rest] = value
        else:
            direct[first] = value
    for name, leaves in inner.items():
        direct[name] = _replaced(getattr(section, name), leaves)
    return msgspec.structs.replace(section, **direct)


def until_restart(running: Settings, wanted: Settings) -> tuple[Settings, list[str]]:
    """Return `wanted` as far as it can take effect in a server that runs with `running`, and the
    names of the settings that need a restart."""
    late = [field.name for field in _different(running, wanted) if field.restart]
    return with_values(wanted, {name: value_of(running, name) for name in late}), late


def same_preparation(one: Settings, other: Settings) -> bool:
    """Return whether preparing a model for one is preparing it for the other."""
    return not any(field.prepares == "makes" for field in _different(one, other))


def preparing_environment(settings: Settings) -> dict[str, str]:
    """Return the variables with which a process that prepares a model has these settings, whatever
    flags and files they are from."""
    return {
        field.variable: field.text(value_of(settings, field.name))
        for field in fields()
        if field.prepares
    }


def _different(one: Settings, other: Settings) -> list[Field]:
    return [f for f in fields() if value_of(one, f.name) != value_of(other, f.name)]
