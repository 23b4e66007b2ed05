"""Tables of the API reference: the blocks between markers in the pages of docs/.

A block begins with `<!-- generated: KIND NAME -->` and ends with `<!-- end -->`. Names, values and
limits come from the source (`modelserver/api/openapi.toml`, messages, error codes); `docs/api.toml`
has the meanings that the source does not have.
"""

import ast
import dataclasses
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

import models
from modelserver.api import about, ask, health, jobs, openai
from modelserver.api.asyncapi import FROM_CLIENT, FROM_SERVER
from modelserver.api.openapi import error_codes, openapi_document, source
from modelserver.api.transcripts import Transcript
from modelserver.http.errors import STATUS, OpenAiError
from modelserver.http.middleware import OPEN_PATHS
from modelserver.jobs.record import Failure
from modelserver.live import realtime_events
from modelserver.live.websockets import close_of
from modelserver.refusal import Refusal
from modelserver.request import body, forms, json_body, receiving
from modelserver.request.parameters import (
    ASK_NAMES,
    FLAG_VALUES,
    JOB_NAMES,
    NAMES,
    STREAM_NAMES,
    Parameters,
)
from modelserver.settings import Settings
from modelserver.settings.fields import size_text
from modelserver.speech import messages, phrases
from modelserver.web import PAGES

MEANINGS = "docs/api.toml"
_BLOCK = re.compile(r"(<!-- generated: (\S+)(?: (\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)
_HEADING = re.compile(r"^#+ `((?:GET|POST|DELETE) \S+)`$", re.MULTILINE)
# Names of statuses, as in RFC 9110. http.HTTPStatus has others for 413 and 422 in Python 3.11 than
# in 3.13, and the pages are to be the same with each.
_REASONS = {
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 408: "Request Timeout", 409: "Conflict", 413: "Content Too Large",
    415: "Unsupported Media Type", 417: "Expectation Failed", 422: "Unprocessable Content",
    426: "Upgrade Required", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout",
}  # fmt: skip
_QUERIES = {"convert": NAMES, "ask": ASK_NAMES, "addJob": JOB_NAMES, "stream": STREAM_NAMES}
_FIRST = {"addJob": NAMES, "ask": ()}
"""Parameters that a page does not repeat."""
_STRUCTS: dict[str, Any] = {
    "transcript": Transcript,
    "word": messages.SpeechWord,
    "segment": messages.SpeechSegment,
    "alternative": messages.SpeechAlternative,
    "ready": health.Ready,
    "about": about.About,
    "about_model": about.AboutModel,
    "abilities": models.Abilities,
    "job": jobs.JobDocument,
    "job_error": Failure,
    "job_webhook": jobs.Webhook,
    "job_list": jobs.JobList,
    "job_message": jobs.Message,
    "question": ask.Question,
    "answer": ask.Answer,
    "openai_error": OpenAiError,
    "openai_verbose": openai.Verbose,
}
_MESSAGES: dict[str, tuple[Any, ...]] = {
    "stream-server": FROM_SERVER,
    "stream-client": FROM_CLIENT,
    "realtime-server": realtime_events.FROM_SERVER,
    "realtime-client": realtime_events.FROM_CLIENT,
}
_OF_STREAMS = {
    *error_codes(["@vosk_socket"]), "bad_request", "not_audio", "unsupported_audio",
    "grammar_unknown", "grammar_unsupported", "too_large_for_server", "worker_lost", "stream_lost",
    "deadline_exceeded", "internal",
} - {"upgrade_required", "host_refused", "spool_full"}  # fmt: skip
"""Errors that can end a live stream."""
_UNLISTED = {"event_id"}
"""A field that every event of the Realtime API may have."""


class Wrong(Exception):
    """The source, the meanings and the pages do not agree."""


class ApiTables:
    """The blocks of the pages in one tree."""

    def __init__(self, root: Path, others: Mapping[str, Callable[[], str]]) -> None:
        """Read the pages. `others`: makers of blocks that are not about the API, by kind."""
        self._others = others
        self._pages = {
            path.name: path.read_text(encoding="utf-8")
            for path in sorted((root / "docs").glob("*.md"))
        }
        self._meanings: dict[str, dict[str, Any]] = {}
        if (file := root / MEANINGS).is_file():
            self._meanings = tomllib.loads(file.read_text(encoding="utf-8"))
        self._used: set[tuple[str, ...]] = set()
        self._root = root

    def pages(self) -> dict[str, str]:
        """Return the pages that have blocks, as they should be. Raises `Wrong`."""
        found = {
            name: _BLOCK.sub(self._block, text)
            for name, text in self._pages.items()
            if _BLOCK.search(text)
        }
        unused = [
            ".".join((table, *names))
            for table, names in _leaves(self._meanings)
            if (table, *names) not in self._used
        ]
        if found and unused:
            raise Wrong(f"{MEANINGS}: no page has a row for {', '.join(sorted(unused))}")
        return found

    def _block(self, match: re.Match[str]) -> str:
        begin, kind, name, end = match.groups()
        if (other := self._others.get(kind)) is not None:
            return f"{begin}\n{other()}\n{end}"
        make: Callable[..., Iterator[str]] | None = getattr(
            self, f"_{kind.replace('-', '_')}", None
        )
        if make is None:
            raise Wrong(f"there are no tables of the kind {kind!r}")
        return f"{begin}\n{''.join(make(name) if name else make())}\n{end}"

    def _meaning(self, table: str, *names: str) -> str:
        self._used.add((table, *names))
        found: Any = self._meanings.get(table)
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        if not isinstance(found, str):
            raise Wrong(f"{'.'.join((table, *names))} has no meaning in {MEANINGS}")
        return found

    # --- endpoints ------------------------------------------------------------------------------

    def _endpoints(self) -> Iterator[str]:
        places = {
            route: f"{page}#{_anchor(route)}"
            for page, text in self._pages.items()
            for route in _HEADING.findall(text)
        }
        yield _head("method and path", "purpose")
        for operation in source().operations.values():
            if operation.route not in places:
                raise Wrong(f"no page has the heading `{operation.route}`")
            yield _row(f"[`{operation.route}`]({places[operation.route]})", operation.summary)

    def _admin(self) -> Iterator[str]:
        yield _head("method and path", "body or query", "answer")
        for route in self._admin_routes():
            given = self._meanings.get("admin", {}).get(route, {}).get("takes")
            takes = self._meaning("admin", route, "takes") if given is not None else ""
            yield _row(f"`{route}`", takes, self._meaning("admin", route, "answer"))

    def _admin_routes(self) -> Iterator[str]:
        file = self._root / "modelserver/admin/application.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Tuple) and len(node.elts) == 3:
                method, path, _ = node.elts
                if isinstance(method, ast.Constant) and isinstance(path, ast.Constant):
                    yield f"{method.value!s} {path.value!s}"

    def _parameters(self, operation: str) -> Iterator[str]:
        listed = source().operations[operation].query
        names = _QUERIES.get(operation) or (listed if isinstance(listed, tuple) else ())
        about = source().parameters
        if operation == "stream":
            about = about | source().stream_parameters
        schemas = _parameter_schemas()
        yield _head("parameter", "values", "default", "meaning")
        for name in names:
            if name in _FIRST.get(operation, ()):
                continue
            values = _values(name, schemas.get(name, {"type": "string"}))
            if operation == "stream" and name == "channels":
                values = "`mix`, or one number"
            yield _row(f"`{name}`", values, _default(name), about[name])

    def _headers(self) -> Iterator[str]:
        yield _head("header", "meaning")
        for name, meaning in source().headers.items():
            yield _row(f"`{name}`", meaning)

    def _body_limits(self) -> Iterator[str]:
        limits = Settings().limits
        yield _head("limit", "value", "change it with")
        expansion = (
            f"expands to at most {receiving._MOST_EXPANSION} times its size, and "
            f"{size_text(receiving._FREE_EXPANSION_BYTES)}"
        )
        lists = (
            f"{phrases.MOST_TEXTS} each, of {phrases.LONGEST_TEXT} letters, "
            f"{size_text(phrases.MOST_BYTES)} together"
        )
        pace = f"at least {limits.upload_min_bytes_s} bytes a second"
        rows = [
            ("audio, after base64 and compression", size_text(limits.body), "`limits.body`"),
            ("length of the audio", f"{limits.audio_s:g} s", "`limits.audio_s`"),
            ("pause in an upload", f"{limits.upload_idle_s:g} s", "`limits.upload_idle_s`"),
            ("pace of an upload, after that time", pace, "`limits.upload_min_bytes_s`"),
            ("JSON body, decompressed", size_text(json_body.MOST_BYTES), ""),
            ("compressed body", expansion, ""),
            ("fields of a form or of JSON, beside the file", str(json_body.MOST_FIELDS), ""),
            ("name of a field", f"{body._LONGEST_NAME} characters; a longer one is ignored", ""),
            ("value of one field", size_text(body._LONGEST_FIELD), ""),
            ("all that is not audio", size_text(body._FORM_OVERHEAD_BYTES), ""),
            ("headers of one part of a form", size_text(forms._MOST_HEADER_BYTES), ""),
            ("`phrases`, `keywords`", lists, ""),
        ]
        for row in rows:
            yield _row(*row)

    def _open_paths(self) -> Iterator[str]:
        names = sorted(f"`{path}`" for path in OPEN_PATHS - set(PAGES))
        yield ", ".join(names) + "\n"

    # --- documents and messages -----------------------------------------------------------------

    def _fields(self, name: str) -> Iterator[str]:
        yield _head("field", "type", "meaning")
        for field in msgspec.inspect.type_info(_STRUCTS[name]).fields:  # type: ignore[attr-defined]
            meaning = self._meaning("fields", name, field.encode_name)
            yield _row(f"`{field.encode_name}`", _type_name(field.type), meaning)

    def _messages(self, name: str) -> Iterator[str]:
        yield _head("message", "fields", "meaning")
        for kind in _MESSAGES[name]:
            info: Any = msgspec.inspect.type_info(kind)
            fields = ", ".join(
                f"`{field.encode_name}`"
                for field in info.fields
                if field.encode_name not in _UNLISTED
            )
            tag = str(kind.__struct_config__.tag)
            yield _row(f"`{tag}`", fields, self._meaning(name, tag))

    # --- errors ---------------------------------------------------------------------------------

    def _errors(self, operation: str) -> Iterator[str]:
        by_status: dict[int, list[str]] = {}
        for code in error_codes([f"@{source().operations[operation].errors}"]):
            by_status.setdefault(STATUS[code], []).append(code)
        yield _head("status", "codes")
        for status, codes in sorted(by_status.items()):
            link = f"[{status}](errors.md#{_status_anchor(status)})"
            yield _row(link, ", ".join(f"`{code}`" for code in sorted(set(codes))))

    def _all_errors(self) -> Iterator[str]:
        by_status: dict[int, list[str]] = {}
        for code, status in STATUS.items():
            by_status.setdefault(status, []).append(code)
        for number, (status, codes) in enumerate(sorted(by_status.items())):
            yield f"{'' if not number else chr(10)}### {status} {_REASONS[status]}\n\n"
            yield _head("code", "cause", "remedy")
            for code in sorted(codes):
                cause = self._meaning("errors", code, "cause")
                yield _row(f"`{code}`", cause, self._meaning("errors", code, "remedy"))

    def _close_codes(self) -> Iterator[str]:
        by_code: dict[int, list[str]] = {}
        for code in _OF_STREAMS:
            by_code.setdefault(close_of(Refusal(code, ""))[0], []).append(code)
        yield _head("close code", "error codes")
        for close, codes in sorted(by_code.items()):
            yield _row(str(close), ", ".join(f"`{code}`" for code in sorted(codes)))


def _leaves(meanings: dict[str, Any], *above: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, value in meanings.items():
        if isinstance(value, dict):
            yield from _leaves(value, *above, name)
        else:
            names = (*above, name)
            yield names[0], names[1:]


def _parameter_schemas() -> dict[str, dict[str, Any]]:
    """Return the schemas of the query's parameters, by name."""
    return {
        one["name"]: one["schema"]
        for path in openapi_document()["paths"].values()
        for operation in path.values()
        for one in operation["parameters"]
        if one["in"] == "query"
    }


def _values(name: str, schema: dict[str, Any]) -> str:
    """Return the allowed values of a parameter, in words."""
    if schema.get("enum") == list(FLAG_VALUES) or name in ("partials", "second_pass"):
        return "`true`, `false`"
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    for one in schema.get("anyOf", ()):
        if "minimum" in one:
            return f"{one['minimum']} to {one['maximum']}, or 0"
    if "minimum" in schema:
        return f"{schema['minimum']} to {schema['maximum']}"
    if name == "channels":
        return "`mix`, `split`, or numbers"
    return (
        "JSON list" if name == "history" else "list" if name in ("phrases", "keywords") else "text"
    )


def _default(name: str) -> str:
    if name == "limit":
        return "`20`"
    if name in ("rate", "channel_count"):
        return "`1`" if name == "channel_count" else ""
    given = {field.name: field.default for field in dataclasses.fields(Parameters)}.get(name)
    if isinstance(given, bool):
        return f"`{str(given).lower()}`"
    return f"`{given:g}`" if isinstance(given, int | float) else f"`{given}`" if given else ""


def _type_name(kind: Any) -> str:
    """Return the name of a type in JSON."""
    inspect = msgspec.inspect
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "integer"
        case inspect.FloatType():
            return "number"
        case inspect.LiteralType():
            return ", ".join(f"`{value}`" for value in kind.values)
        case inspect.ListType() | inspect.VarTupleType():
            inner = _type_name(kind.item_type)
            return f"list of {inner if inner == 'text' else inner + 's'}"
        case inspect.UnionType():
            parts = [_type_name(one) for one in kind.types if not isinstance(one, inspect.NoneType)]
            return " or ".join(parts)
        case inspect.StructType() | inspect.DataclassType():
            return "object"
        case inspect.CustomType() | inspect.DateTimeType():
            return "time"
    return "text"


def _anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.lower())
    return kept.replace(" ", "-")


def _status_anchor(status: int) -> str:
    return _anchor(f"{status} {_REASONS[status]}")


def _head(*names: str) -> str:
    return f"{_row(*names)}| {' | '.join('---' for _ in names)} |\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
