"""`GET /healthz`, `GET /readyz` and `GET /test`: does it live, can it serve, is it this server."""

import msgspec
from aiohttp import web

from modelserver import __version__
from modelserver.http.app_keys import SERVICE
from modelserver.http.errors import json_response
from modelserver.refusal import Refusal
from supervisor import PoolState


class Alive(msgspec.Struct):
    """The answer of `/healthz`."""

    status: str = "ok"


class Ready(msgspec.Struct):
    """The answer of `/readyz`; model and language are the first model's."""

    status: str
    model: str | None
    language: str | None
    workers: int
    models: list[str]


class Named(msgspec.Struct):
    """The answer of `/test`."""

    status: str = "ok"
    server: str = "modelserver"
    version: str = __version__


async def healthz(_: web.Request) -> web.Response:
    """Answer that the supervisor is running."""
    return json_response(Alive())


async def readyz(request: web.Request) -> web.Response:
    """Answer whether a model is loaded and a worker is ready; raise a 503 with the reason
    otherwise."""
    service = request.app[SERVICE]
    status = service.status()
    if status.state is PoolState.DRAINING:
        raise Refusal("shutting_down", service.drain.reason, retry_after_s=10)
    if status.reason is not None:
        raise Refusal("not_ready", status.reason, retry_after_s=5)
    return json_response(
        Ready(
            status="ready",
            model=status.model.get("model"),
            language=status.model.get("language"),
            workers=sum(worker.state.value in ("idle", "busy") for worker in status.workers),
            models=[served.in_words() for served in service.models.values()],
        )
    )


async def test(_: web.Request) -> web.Response:
    """Return name and version, for a person with a browser."""
    return json_response(Named())
