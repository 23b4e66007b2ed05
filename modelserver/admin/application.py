"""The admin application: health, metrics, and the few things an operator may do."""

import hmac
import re
import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from modelserver.access.gate import bearer_of
from modelserver.admin.health import health
from modelserver.admin.metrics import CONTENT_TYPE, Metrics
from modelserver.http.connections import Connections
from modelserver.http.errors import ApiError, as_api_error, error_response, json_response
from modelserver.http.keys import CONNECTIONS, SERVICE
from modelserver.http.middleware import expect_continue, request_id_of, signed
from modelserver.jobs.service import JobService
from modelserver.serving.reloading import Reloader, ReloadRefused
from modelserver.serving.service import SpeechService

log: structlog.stdlib.BoundLogger = structlog.get_logger("admin")

_NUMBER = re.compile(r"[0-9]{1,6}")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_admin(
    service: SpeechService,
    jobs: JobService,
    reloader: Reloader,
    token: str | None,
    connections: Connections,
) -> web.Application:
    """The routes. `token`: what every request must bring; None on a Unix socket, where the file's
    owner is the one who may come in."""
    admin = _Admin(service, jobs, reloader, token)
    app = web.Application(middlewares=[admin.each_request])
    app[SERVICE] = service
    app[CONNECTIONS] = connections
    for method, path, handler in (
        ("GET", "/admin/health", admin.health),
        ("GET", "/metrics", admin.metrics),
        ("POST", "/admin/workers/{id}/recycle", admin.recycle),
        ("POST", "/admin/drain", admin.drain),
        ("POST", "/admin/resume", admin.resume),
        ("POST", "/admin/reload", admin.reload),
    ):
        app.router.add_route(method, path, handler, expect_handler=expect_continue)
    return app


def _bytes(text: str) -> bytes:
    """Of a header, which may hold any bytes."""
    return text.encode("utf-8", "surrogateescape")


class _Admin:
    def __init__(
        self, service: SpeechService, jobs: JobService, reloader: Reloader, token: str | None
    ) -> None:
        self._service, self._jobs = service, jobs
        self._reloader = reloader
        self._token = token
        self._started = time.monotonic()
        self._metrics = Metrics(lambda: health(service, jobs, self._started), service.traffic)

    @web.middleware
    async def each_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = request_id_of(request)
        connections = request.app[CONNECTIONS]
        connections.begins(request.protocol)
        try:
            self._must_be_allowed(request)
            return signed(await handler(request), request_id)
        except Exception as exception:
            error = as_api_error(exception)
            if error is None:
                log.exception("admin.failed", request_id=request_id, path=request.path)
                error = ApiError("internal", "the server failed; its log says how")
            return signed(error_response(error, request_id), request_id)
        finally:
            connections.rests(request.protocol)

    def _must_be_allowed(self, request: web.Request) -> None:
        if self._token is None:
            return
        # By the token alone: where a proxy stands in between, every address is its own.
        sent = bearer_of(request.headers.get("Authorization", ""))
        if not hmac.compare_digest(_bytes(sent), _bytes(self._token.strip())):
            raise ApiError(
                "unauthorized",
                "send the admin token: Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": 'Bearer realm="modelserver admin"'},
            )

    async def health(self, _: web.Request) -> web.Response:
        return json_response(health(self._service, self._jobs, self._started))

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def recycle(self, request: web.Request) -> web.Response:
        slot = request.match_info["id"]
        pids = self._service.recycle(int(slot)) if _NUMBER.fullmatch(slot) else []
        if not pids:
            there = ", ".join(str(w.slot) for w in self._service.status().workers) or "none"
            raise ApiError("not_found", f"there is no worker {slot}; there are: {there}")
        log.info("admin.recycle", worker=int(slot), pids=pids)
        return json_response({"status": "recycling", "worker": int(slot), "pids": pids}, status=202)

    async def reload(self, _: web.Request) -> web.Response:
        log.info("admin.reload")
        try:
            await self._reloader.reload()
        except ReloadRefused as error:
            raise ApiError("bad_settings", str(error)) from error
        return json_response(
            {"status": "reloading", "models": list(self._service.models)}, status=202
        )

    async def drain(self, _: web.Request) -> web.Response:
        log.info("admin.drain")
        self._service.stop_admitting("the server takes no requests: its operator has said so")
        admitted = self._service.status().admitted
        return json_response({"status": "draining", "admitted": admitted}, status=202)

    async def resume(self, _: web.Request) -> web.Response:
        if not self._service.resume():
            raise ApiError("shutting_down", self._service.draining())
        log.info("admin.resume")
        return json_response({"status": "serving"})
