"""Fills `Settings` from a TOML file, `MODELSERVER_*` variables and flags, in rising precedence,
and remembers where each value came from."""

import difflib
import functools
import itertools
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from modelserver.settings.changes import with_values
from modelserver.settings.fields import (
    ENVIRONMENT_PREFIX,
    NAMED,
    Field,
    fields,
    named_fields,
    value_of,
    variable_of,
)
from modelserver.settings.schema import REMOVED, RENAMED, ModelSettings, Settings

FLAG = "flag"
"""The origin of what was given with the command."""

CONFIG_VARIABLE = "MODELSERVER_CONFIG"
KEY_VARIABLE = ENVIRONMENT_PREFIX + "KEY"
"""Variable with the key that our own clients send."""
HANDOVER_VARIABLE = ENVIRONMENT_PREFIX + "HANDOVER"
"""The descriptor of the wire to the server before, for its successor."""
_NO_SETTINGS = (CONFIG_VARIABLE, KEY_VARIABLE, HANDOVER_VARIABLE)
SYSTEM_FILE = Path("/etc/modelserver.toml")
INSTALLED_FILE = Path(sys.prefix, "share", "modelserver", "defaults.toml")
"""File with the defaults of an installation as a system service; `make install` puts it there."""

_HARMLESS = re.compile(r"-?[0-9.]{1,8}|true|false|on|off|auto", re.IGNORECASE)
"""Values of unknown settings that are shown: another may be a secret whose name is misspelt."""
_SERVICE_LINK = re.compile(r"MODELSERVER_(SERVICE_(HOST|PORT)|PORT_[0-9]+)(_\w+)?")
_LINK = re.compile(r"(tcp|udp|sctp)://")
"""Value of variables that Kubernetes sets in every pod beside a Service that is called modelserver.
"""

_LABEL = re.compile(r"^[\w-]{1,64}$", re.ASCII)


class ConfigurationError(Exception):
    """A setting is unknown or not allowed; the text says which, what it is, and what may be.
    `origin`: where it is from, if it is one value's fault."""

    def __init__(self, message: str, origin: str = "") -> None:
        super().__init__(message)
        self.origin = origin


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings in force, and for each name where its value came from."""

    settings: Settings
    origins: Mapping[str, str]
    again: Callable[[], "Configuration"]
    """Read all sources again. Raises `ConfigurationError`."""
    unread: str | None = None
    """Sentence about the system's settings, if this user may not read them: they are not used."""

    def rows(self) -> Iterator[tuple[Field, Any, str]]:
        """Yield the settings with their values and origins, in the order of declaration."""
        for field in fields():
            value = value_of(self.settings, field.name)
            yield field, value, self.origins.get(field.name, "default")
        for label, section in self.settings.models.items():
            for field in named_fields(label):
                if field.name in self.origins:
                    leaf = field.name.split(".", 2)[2]
                    value = section.given[leaf] if leaf in section.given else getattr(section, leaf)
                    yield field, value, self.origins[field.name]


def read_configuration(
    file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> Configuration:
    """Return the configuration in force. `file`: None for the one that `MODELSERVER_CONFIG` names,
    or else /etc/modelserver.toml if it exists. `flags`: values by dotted name; None means not
    given. Raises `ConfigurationError`."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    known = {field.name: field for field in fields()}
    for name, raw, origin in _sources(file, environment, flags, known):
        values[name] = _convert(known[name], raw, origin)
        origins[name] = origin
    labels = [name.split(".")[1] for name in known if name.startswith(f"{NAMED}.")]
    if labels and "model" in values:
        _must_be_stronger(origins)
        values = {n: v for n, v in values.items() if not n.startswith(f"{NAMED}.")}
        labels = []
    again = functools.partial(read_configuration, file, environment, flags)
    settings = _build(values, dict.fromkeys(labels))
    _second_passes_must_be_there(settings.models, origins)
    return Configuration(settings, origins, again, _unread(file, environment))


def _second_passes_must_be_there(
    named: Mapping[str, ModelSettings], origins: Mapping[str, str]
) -> None:
    for label, own in named.items():
        others = [other for other in named if other != label]
        if own.second_pass and own.second_pass not in others:
            name = f"{NAMED}.{label}.second_pass"
            raise ConfigurationError(
                f"{name} = {own.second_pass!r} (from {origins[name]}) is not another model of "
                f"these settings; allowed: {' or '.join(others) or 'none, as there is no other'}; "
                "without it the second pass is made with the same model",
                origins[name],
            )


def _must_be_stronger(origins: Mapping[str, str]) -> None:
    """Refuse `model` beside `[models.NAME]`, except where a variable or flag overrides a file."""
    origin = origins["model"]
    if origin != FLAG and not origin.startswith(ENVIRONMENT_PREFIX):
        raise ConfigurationError(
            f"{origin} sets both model and [{NAMED}.NAME]: one model or several, not both"
        )


def _sources(
    file: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[str, Any],
    known: dict[str, Field],
) -> Iterator[tuple[str, Any, str]]:
    """Name, raw value and origin of all that is given, lowest precedence first; `known` gets the
    fields of the models that are named."""
    for path in _files(file, environment):
        table = _read_toml(path)
        known |= {field.name: field for label in _labels(table) for field in named_fields(label)}
        for name, value in _flatten(table, "", known):
            _must_be_known(name, value, str(path), known)
            yield name, value, str(path)
    by_variable = {field.variable: field for field in known.values()}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in _NO_SETTINGS:
            continue
        if _SERVICE_LINK.fullmatch(variable) or (
            variable == "MODELSERVER_PORT" and _LINK.match(text)
        ):
            continue
        if variable not in by_variable:
            shown = variable + (f"={text}" if _HARMLESS.fullmatch(text) else "")
            raise _unknown(shown, "the environment", variable, by_variable)
        yield by_variable[variable].name, text, variable
    for name, value in flags.items():
        if value is not None:
            yield name, value, FLAG


def _files(file: Path | None, environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the files that are read, lowest precedence first."""
    if INSTALLED_FILE.is_file():
        yield INSTALLED_FILE
    if file is not None:
        yield file
    elif environment.get(CONFIG_VARIABLE):
        yield Path(environment[CONFIG_VARIABLE])
    elif SYSTEM_FILE.is_file() and os.access(SYSTEM_FILE, os.R_OK):
        yield SYSTEM_FILE


def _unread(file: Path | None, environment: Mapping[str, str]) -> str | None:
    if file is not None or environment.get(CONFIG_VARIABLE) or not SYSTEM_FILE.is_file():
        return None
    if os.access(SYSTEM_FILE, os.R_OK):
        return None
    return f"{SYSTEM_FILE} may not be read by this user: not used"


def _labels(table: Mapping[str, Any]) -> list[str]:
    named = table.get(NAMED)
    if not isinstance(named, dict):
        return []
    for label, section in named.items():
        if not _LABEL.match(label) or not isinstance(section, dict):
            raise ConfigurationError(
                f"{NAMED}.{label} is not a model's section; [models.NAME] is, with a name of "
                "letters, digits, underscores and hyphens"
            )
    for one, other in itertools.combinations(named, 2):
        if one.replace("-", "_").lower() == other.replace("-", "_").lower():
            raise ConfigurationError(
                f"{NAMED}.{one} and {NAMED}.{other} differ too little: they would have the same "
                "variables"
            )
    return list(named)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from error


def _flatten(
    table: Mapping[str, Any], prefix: str, known: Mapping[str, Field]
) -> Iterator[tuple[str, Any]]:
    sections = {above for name in (*known, *_old_names()) for above in _sections(name)}
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, dict) and name in sections:
            yield from _flatten(value, f"{name}.", known)
        else:
            yield name, value


def _sections(name: str) -> list[str]:
    """Return the sections that a setting is in, from the outermost."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


def _must_be_known(name: str, value: Any, origin: str, known: Mapping[str, Field]) -> None:
    if name in known:
        return
    if isinstance(value, dict):
        sections = sorted({known_name.rpartition(".")[0] for known_name in known} - {""})
        close = difflib.get_close_matches(name, sections, n=1)
        meant = f"did you mean [{close[0]}]?" if close else f"there are: {', '.join(sections)}"
        raise ConfigurationError(f"unknown section [{name}] (in {origin}); {meant}")
    shown = f"{name} = {value!r}" if _HARMLESS.fullmatch(str(value)) else name
    raise _unknown(shown, origin, name, known)


def _old_names(prefix: str = "") -> dict[str, str]:
    """Settings that have another name now or are gone, with what to do instead. `prefix`: the
    section of the model that sets one."""
    moved = {
        old: f"it is {prefix}{new} ({variable_of(prefix + new)}) now"
        for old, new in RENAMED.items()
    }
    return moved | REMOVED


def _unknown(what: str, origin: str, name: str, known: Mapping[str, Any]) -> ConfigurationError:
    section, own = "", name
    if name.startswith(f"{NAMED}."):
        own = name.split(".", 2)[2]
        section = name.removesuffix(own)
    for old, instead in _old_names(section).items():
        if own in (old, variable_of(old)):
            said = f"there is no setting {name} (from {origin}) any more: {instead}"
            return ConfigurationError(said)
    close = difflib.get_close_matches(name, list(known), n=3)
    meant = f"did you mean {' or '.join(close)}?" if close else "`modelserver config` lists them"
    return ConfigurationError(f"unknown setting {what} (from {origin}); {meant}")


def _convert(field: Field, raw: Any, origin: str) -> Any:
    try:
        return field.convert(raw)
    except (msgspec.ValidationError, ValueError):
        raise ConfigurationError(
            f"{field.name} = {field.shown(raw)!r} (from {origin}) is not "
            f"allowed; allowed: {field.allowed}",
            origin,
        ) from None


def _build(values: Mapping[str, Any], labels: Iterable[str]) -> Settings:
    """Return the settings with `values` in place of defaults, and with models of these names."""
    own: dict[str, dict[str, Any]] = {label: {} for label in labels}
    common = {}
    for name, value in values.items():
        if name.startswith(f"{NAMED}."):
            _, label, leaf = name.split(".", 2)
            own[label][leaf] = value
        else:
            common[name] = value
    named = {label: _model_settings(leaves) for label, leaves in own.items()}
    return with_values(Settings(), {**common, NAMED: named})


def _model_settings(leaves: Mapping[str, Any]) -> ModelSettings:
    own = {name: leaves[name] for name in leaves.keys() & set(ModelSettings.__struct_fields__)}
    given = {name: value for name, value in leaves.items() if name not in own}
    return ModelSettings(**own, given=given)
