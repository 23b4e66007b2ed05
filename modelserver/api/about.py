"""`GET /api/about`: what a page has to know of its server before it can begin."""

import msgspec
from aiohttp import web

from modelserver import __version__
from modelserver.http.app_keys import ASSISTANT, SERVICE
from modelserver.http.errors import json_response


class AboutModel(msgspec.Struct):
    """A served model. `name`: what to send as `model`."""

    name: str
    language: str


class About(msgspec.Struct):
    """`keys`: whether a key is needed; `assistant`: whether `/api/ask` answers; `endpoint_ms`: the
    silence after which something said is over."""

    version: str
    models: list[AboutModel]
    keys: bool
    assistant: bool
    endpoint_ms: int


async def about(request: web.Request) -> web.Response:
    """Return the document; it has nothing that needs a key."""
    service = request.app[SERVICE]
    return json_response(
        About(
            version=__version__,
            models=[AboutModel(s.label, s.language) for s in service.models.values()],
            keys=not service.access.open,
            assistant=request.app[ASSISTANT].there,
            endpoint_ms=service.settings.debug.endpoint_ms,
        )
    )
