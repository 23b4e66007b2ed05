"""The AsyncAPI document of our own live stream: every message that goes either way.

Its schemas are made from the messages themselves; `openapi.toml` describes the parameters.

Source: AsyncAPI 3.0.
"""

import functools
from typing import Any

import msgspec
from aiohttp import web

from modelserver import __version__
from modelserver.api.openapi import source
from modelserver.http.errors import json_response
from modelserver.http.middleware import STREAM_PATH
from modelserver.live.own import (
    Begin,
    Close,
    End,
    Failure,
    Final,
    Finalize,
    KeepAlive,
    Notice,
    Partial,
    Revised,
)
from modelserver.request.parameters import STREAM_NAMES

FROM_SERVER = (Begin, Partial, Final, Revised, Notice, End, Failure)
FROM_CLIENT = (KeepAlive, Finalize, Close)

_AUDIO = "audio"


@functools.cache
def asyncapi_document() -> dict[str, Any]:
    """Return the whole document."""
    messages: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for kind in (*FROM_SERVER, *FROM_CLIENT):
        tag = _tag(kind)
        (schema,), components = msgspec.json.schema_components(
            [kind], ref_template="#/components/schemas/{name}"
        )
        schemas |= components
        summary = " ".join((kind.__doc__ or "").split())
        messages[tag] = {
            "name": tag,
            "contentType": "application/json",
            "summary": summary,
            "payload": schema,
        }
    messages[_AUDIO] = {
        "name": _AUDIO,
        "contentType": "application/octet-stream",
        "summary": "Binary: the next piece of audio, of any size.",
        "payload": {"type": "string", "format": "binary"},
    }
    about = source().parameters | source().stream_parameters
    properties = {name: {"type": "string", "description": about[name]} for name in STREAM_NAMES}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "modelserver live stream",
            "version": __version__,
            "description": "Any audio in as it is spoken, captions out. /api/about says what each "
            "model can do (abilities). A message of type error "
            "comes before any close code but 1000, 1001, 4408 and 4410.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "stream": {
                "address": STREAM_PATH,
                "messages": {name: _ref("messages", name) for name in messages},
                "bindings": {
                    "ws": {"method": "GET", "query": {"type": "object", "properties": properties}}
                },
            }
        },
        "operations": {
            "hear": _operation("receive", [_AUDIO, *map(_tag, FROM_CLIENT)]),
            "tell": _operation("send", list(map(_tag, FROM_SERVER))),
        },
        "components": {"messages": messages, "schemas": schemas},
    }


def _tag(kind: Any) -> str:
    return str(kind.__struct_config__.tag)


def _ref(where: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{where}/{name}"}


def _operation(action: str, names: list[str]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": "#/channels/stream"},
        "messages": [{"$ref": f"#/channels/stream/messages/{name}"} for name in names],
    }


async def asyncapi(request: web.Request) -> web.Response:
    """`/asyncapi.json`"""
    return json_response(asyncapi_document())
