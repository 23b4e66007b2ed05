"""Facts that a page needs before it can begin: `GET /api/about`."""

from dataclasses import replace

import msgspec
from aiohttp import web

import models
from modelserver import __version__
from modelserver.http.app_keys import ASSISTANT, SERVICE
from modelserver.http.errors import json_response
from modelserver.serving.served import ServedModel


class AboutModel(msgspec.Struct, omit_defaults=True):
    """A served model. `name`: what to send as `model`; `languages`: those that it speaks, its own
    `language` first; `abilities`: where they are known."""

    name: str
    language: str
    languages: list[str]
    abilities: models.Abilities | None = None


def about_model(served: ServedModel) -> AboutModel:
    """Return the description of a served model; phrases count as an ability if another form of it
    takes them, which a request with phrases loads."""
    abilities = served.abilities
    if abilities is not None and abilities.phrases == "no" and served.takes_phrases():
        abilities = replace(abilities, phrases="only")
    return AboutModel(served.label, served.language, served.languages, abilities)


class About(msgspec.Struct):
    """Facts about the server. `keys`: whether a key is needed; `assistant`: whether `/api/ask`
    answers; `endpoint_ms`: milliseconds of silence that end an utterance."""

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
            models=[about_model(served) for served in service.models.values()],
            keys=not service.access.open,
            assistant=request.app[ASSISTANT].there,
            endpoint_ms=service.settings.debug.endpoint_ms,
        )
    )
