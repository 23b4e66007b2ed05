"""The AsyncAPI document of live streams: every message of our own and of OpenAI's Realtime API.

Its schemas are made from the messages themselves; `openapi.toml` describes the parameters.

Source: AsyncAPI 3.0.
"""

import functools
from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web

from modelserver import __version__
from modelserver.api.openapi import source
from modelserver.http.errors import json_response
from modelserver.http.middleware import REALTIME_PATH, STREAM_PATH
from modelserver.live import realtime_events
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
_REALTIME = "realtime."
"""Begins the keys of that API's messages: both have one that is called "error"."""
_REALTIME_QUERY = {
    "intent": "`transcription`, which is the default",
    "model": "name of a served model; a name of OpenAI's models selects the default",
}


@functools.cache
def asyncapi_document() -> dict[str, Any]:
    """Return the whole document."""
    own = {_tag(kind): kind for kind in (*FROM_SERVER, *FROM_CLIENT)}
    theirs = {
        _REALTIME + _tag(kind): kind
        for kind in (*realtime_events.FROM_SERVER, *realtime_events.FROM_CLIENT)
    }
    described, schemas = msgspec.json.schema_components(
        [*own.values(), *theirs.values()], ref_template="#/components/schemas/{name}"
    )
    messages: dict[str, Any] = {
        key: {
            "name": _tag(kind),
            "contentType": "application/json",
            "summary": " ".join((kind.__doc__ or "").split()),
            "payload": schema,
        }
        for (key, kind), schema in zip((own | theirs).items(), described, strict=True)
    }
    messages[_AUDIO] = {
        "name": _AUDIO,
        "contentType": "application/octet-stream",
        "summary": "Binary message: the next piece of audio, of any size.",
        "payload": {"type": "string", "format": "binary"},
    }
    about = source().parameters | source().stream_parameters
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "modelserver live streams",
            "version": __version__,
            "description": "Audio is sent as it is spoken, and text comes back. /api/about lists "
            "the abilities of each model. A message of type error comes before any close code "
            "but 1000, 1001, 4408 and 4410; on the channel realtime before any but 1000 and 1009.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "stream": _channel(
                STREAM_PATH, [*own, _AUDIO], {name: about[name] for name in STREAM_NAMES}
            ),
            "realtime": _channel(REALTIME_PATH, list(theirs), _REALTIME_QUERY),
        },
        "operations": {
            "streamReceive": _operation("receive", "stream", [_AUDIO, *map(_tag, FROM_CLIENT)]),
            "streamSend": _operation("send", "stream", list(map(_tag, FROM_SERVER))),
            "realtimeReceive": _operation(
                "receive", "realtime", _keys(realtime_events.FROM_CLIENT)
            ),
            "realtimeSend": _operation("send", "realtime", _keys(realtime_events.FROM_SERVER)),
        },
        "components": {"messages": messages, "schemas": schemas},
    }


def _tag(kind: Any) -> str:
    return str(kind.__struct_config__.tag)


def _keys(kinds: Iterable[Any]) -> list[str]:
    return [_REALTIME + _tag(kind) for kind in kinds]


def _ref(where: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{where}/{name}"}


def _channel(path: str, messages: list[str], query: dict[str, str]) -> dict[str, Any]:
    properties = {
        name: {"type": "string", "description": described} for name, described in query.items()
    }
    return {
        "address": path,
        "messages": {name: _ref("messages", name) for name in messages},
        "bindings": {
            "ws": {"method": "GET", "query": {"type": "object", "properties": properties}}
        },
    }


def _operation(action: str, channel: str, names: list[str]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
    }


async def asyncapi(request: web.Request) -> web.Response:
    """Answer `GET /asyncapi.json`."""
    return json_response(asyncapi_document())
