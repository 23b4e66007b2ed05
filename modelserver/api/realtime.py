"""Client secrets of OpenAI's Realtime API: short-lived keys for browsers."""

import time
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from modelserver.access.client_secrets import ClientSecret
from modelserver.http.app_keys import SERVICE
from modelserver.http.decoding import decoded
from modelserver.http.errors import json_response
from modelserver.http.middleware import KEY_NAME
from modelserver.live.realtime_events import Session, SessionOptions, new_id
from modelserver.live.realtime_options import first_options
from modelserver.refusal import Refusal
from modelserver.request.receiving import read_body

_MOST_BYTES = 64 * 1024
_MOST_SESSION_BYTES = 4096
"""Size of a session's options in a secret, which clients send in a header."""
_Seconds = Annotated[int, msgspec.Meta(ge=10, le=7200)]


class ExpiresAfter(msgspec.Struct):
    """Lifetime of a client secret."""

    seconds: _Seconds = 600
    anchor: Literal["created_at"] = "created_at"


class SecretWanted(msgspec.Struct):
    """The body of a request for a secret: options of the sessions that are opened with it."""

    expires_after: ExpiresAfter = msgspec.field(default_factory=ExpiresAfter)
    session: SessionOptions = SessionOptions()


class Secret(msgspec.Struct):
    """A secret, and the session that it opens."""

    value: str
    expires_at: int
    session: Session


async def client_secrets(request: web.Request) -> web.Response:
    """Answer `POST /v1/realtime/client_secrets`."""
    service = request.app[SERVICE]
    body = await read_body(request, service.settings.limits, _MOST_BYTES)
    wanted = decoded(body or b"{}", SecretWanted)
    models = service.models
    options = first_options(models, None).updated(wanted.session, models)
    session = msgspec.json.encode(options.wanted()).decode()
    if (size := len(session.encode())) > _MOST_SESSION_BYTES:
        raise Refusal(
            "bad_parameter",
            f"session: its options have {size} bytes, and {_MOST_SESSION_BYTES} are allowed in a "
            "client secret; send more keywords with session.update",
        )
    now = int(time.time())
    expires_at = now + wanted.expires_after.seconds
    content = ClientSecret(request.get(KEY_NAME), expires_at, session)
    longest_s = int(service.settings.streams.longest_s)
    described = options.session(new_id("sess"), now + longest_s)
    return json_response(Secret(service.access.new_secret(content), expires_at, described))
