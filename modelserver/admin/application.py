"""The admin application: health, metrics, and what an operator may do; and its page."""

import asyncio
import functools
import re
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import structlog
from aiohttp import web

from modelserver.admin.access import AdminAccess
from modelserver.admin.actions import ModelDesk
from modelserver.admin.events import follow
from modelserver.admin.health_builder import health
from modelserver.admin.history import FIELDS, History
from modelserver.admin.lag import LoopLag
from modelserver.admin.metrics import CONTENT_TYPE, Metrics
from modelserver.admin.report import report
from modelserver.handover import Upgrader
from modelserver.http.app_keys import CONNECTIONS, SERVICE
from modelserver.http.connections import Connections
from modelserver.http.decoding import decoded
from modelserver.http.errors import error_response, failed, json_response, refusal_of
from modelserver.http.middleware import REQUEST_ID, expect_continue, request_id_of, signed
from modelserver.http.origins import refuse_other_names
from modelserver.http.pages import page
from modelserver.jobs.service import JobService
from modelserver.logs import LogLevel, level_now, recent_events, set_level
from modelserver.refusal import Refusal
from modelserver.serving.reloading import Reloader
from modelserver.serving.service import SpeechService
from modelserver.web import ADMIN_PAGES

log: structlog.stdlib.BoundLogger = structlog.get_logger("admin")

_FOR_ALL = {"/admin", "/admin/login", "/admin/session", *ADMIN_PAGES}
"""Need no token: they say nothing, or ask for it."""
_BODY_S = 10.0
_NUMBER = re.compile(r"[0-9]{1,6}")
_TIME = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")

Body = TypeVar("Body")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Login(msgspec.Struct, forbid_unknown_fields=True):
    token: str


class _Level(msgspec.Struct, forbid_unknown_fields=True):
    level: LogLevel


class _Wanted(msgspec.Struct, forbid_unknown_fields=True):
    name: str


def build_admin(
    service: SpeechService,
    jobs: JobService,
    history: History,
    reloader: Reloader,
    upgrader: Upgrader,
    token: str | None,
    connections: Connections,
) -> web.Application:
    """Build the routes of the admin side. `token`: what every request must bring; None on a Unix
    socket, to which only its owner has access."""
    lag = LoopLag()
    admin = _Admin(service, jobs, history, reloader, upgrader, token, lag)
    app = web.Application(middlewares=[admin.each_request])
    app.cleanup_ctx.append(lag.measured)
    app[SERVICE] = service
    app[CONNECTIONS] = connections
    for method, path, handler in (
        ("POST", "/admin/login", admin.login),
        ("POST", "/admin/logout", admin.logout),
        ("GET", "/admin/session", admin.session),
        ("GET", "/admin/health", admin.health),
        ("GET", "/admin/history", admin.history),
        ("GET", "/admin/events", admin.events),
        ("GET", "/admin/settings", admin.settings),
        ("GET", "/admin/log", admin.log),
        ("POST", "/admin/log/level", admin.log_level),
        ("GET", "/admin/report", admin.report),
        ("GET", "/admin/models", admin.models),
        ("POST", "/admin/models/pull", admin.pull),
        ("POST", "/admin/models/change", admin.change),
        ("POST", "/admin/models/{label}/prepare", admin.prepare),
        ("POST", "/admin/models/{label}/load", admin.load),
        ("POST", "/admin/models/{label}/unload", admin.unload),
        ("GET", "/metrics", admin.metrics),
        ("POST", "/admin/workers/{id}/recycle", admin.recycle),
        ("POST", "/admin/drain", admin.drain),
        ("POST", "/admin/resume", admin.resume),
        ("POST", "/admin/reload", admin.reload),
        ("POST", "/admin/upgrade", admin.upgrade),
    ):
        app.router.add_route(method, path, handler, expect_handler=expect_continue)
    for path, name in ADMIN_PAGES.items():
        app.router.add_get(path, page(name), expect_handler=expect_continue)
    app.router.add_get("/admin", _to_the_page)
    return app


async def _to_the_page(_: web.Request) -> web.Response:
    return web.Response(status=308, headers={"Location": "admin/"})


class _Admin:
    def __init__(
        self,
        service: SpeechService,
        jobs: JobService,
        history: History,
        reloader: Reloader,
        upgrader: Upgrader,
        token: str | None,
        lag: LoopLag,
    ) -> None:
        self._service, self._jobs, self._history = service, jobs, history
        self._reloader, self._upgrader = reloader, upgrader
        self._access = AdminAccess(token)
        self._desk = ModelDesk(service, reloader)
        self._health = functools.partial(health, service, jobs, time.monotonic())
        self._metrics = Metrics(self._health, service.traffic, lag)

    @web.middleware
    async def each_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = request[REQUEST_ID] = request_id_of(request)
        connections = request.app[CONNECTIONS]
        # Where there are too many, connections without the token are the first to be closed.
        if self._access.is_in(request):
            connections.begins(request.protocol)
        try:
            if not self._access.token_needed:
                refuse_other_names(request, self._service.settings.server_names)
            if request.path not in _FOR_ALL:
                self._access.must_be_allowed(request)
            response = await handler(request)
            return response if response.prepared else signed(response, request_id)
        except Exception as exception:
            error = refusal_of(exception)
            if error is None:
                log.exception("admin.request_failed", request_id=request_id, path=request.path)
                error = failed()
            return signed(error_response(error, request_id), request_id)
        finally:
            connections.rests(request.protocol)

    # --- who ------------------------------------------------------------------------------------

    async def login(self, request: web.Request) -> web.Response:
        """Exchange the token for a cookie."""
        login = await _body(request, _Login)
        response = json_response({"status": "ok"})
        await self._access.let_in(request, login.token, response)
        return response

    async def session(self, request: web.Request) -> web.Response:
        """Return whether the page has to ask for the token."""
        return json_response(
            {"in": self._access.is_in(request), "token_needed": self._access.token_needed}
        )

    async def logout(self, request: web.Request) -> web.Response:
        response = json_response({"status": "ok"})
        self._access.let_out(request, response)
        return response

    # --- readings -------------------------------------------------------------------------------

    async def health(self, _: web.Request) -> web.Response:
        return json_response(self._health())

    async def history(self, request: web.Request) -> web.Response:
        """Return all samples, or those after `since` (Unix time)."""
        since = request.query.get("since", "0")
        if not _TIME.fullmatch(since):
            raise Refusal("bad_parameter", "since is a Unix time, in seconds")
        short, long = (self._history.since(float(since), long) for long in (False, True))
        return json_response({"fields": FIELDS, "short": short, "long": long})

    async def events(self, request: web.Request) -> web.StreamResponse:
        return await follow(request, self._health, self._history, self._desk)

    async def settings(self, _: web.Request) -> web.Response:
        return json_response(self._reloader.in_force())

    async def log(self, request: web.Request) -> web.Response:
        after = request.query.get("after", "0")
        if not re.fullmatch("[0-9]{1,15}", after):
            raise Refusal("bad_parameter", "after is the number of an event")
        return json_response({"level": level_now(), "events": recent_events.since(int(after))})

    async def report(self, _: web.Request) -> web.Response:
        made = await asyncio.to_thread(report, self._health(), list(self._history.long))
        name = time.strftime("modelserver-%Y%m%d-%H%M%S.json", time.gmtime())
        response = json_response(made)
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return response

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    # --- acts -----------------------------------------------------------------------------------

    async def log_level(self, request: web.Request) -> web.Response:
        wanted = await _body(request, _Level)
        log.warning("admin.log_level_changed", before=level_now(), now=wanted.level)
        set_level(wanted.level)
        return json_response({"level": level_now()})

    async def models(self, _: web.Request) -> web.Response:
        return json_response(await self._desk.all())

    async def pull(self, request: web.Request) -> web.Response:
        name = (await _body(request, _Wanted)).name
        self._desk.pull(name)
        log.info("admin.pull_requested", model=name)
        return json_response({"status": "pulling", "model": name}, status=202)

    async def change(self, request: web.Request) -> web.Response:
        name = (await _body(request, _Wanted)).name
        log.info("admin.model_change_requested", model=name)
        await self._desk.change(name)
        return json_response({"status": "changing", "model": name}, status=202)

    async def prepare(self, request: web.Request) -> web.Response:
        label = request.match_info["label"]
        log.info("admin.prepare_requested", model=label)
        self._desk.find(label).prepare_soon()
        return json_response({"status": "preparing", "model": label}, status=202)

    async def load(self, request: web.Request) -> web.Response:
        label = request.match_info["label"]
        log.info("admin.load_requested", model=label)
        await self._desk.find(label).start()
        return json_response({"status": "loading", "model": label}, status=202)

    async def unload(self, request: web.Request) -> web.Response:
        label = request.match_info["label"]
        log.info("admin.unload_requested", model=label)
        await self._desk.unload(label)
        return json_response({"status": "unloaded", "model": label})

    async def recycle(self, request: web.Request) -> web.Response:
        slot = request.match_info["id"]
        pids = self._service.models.recycle(int(slot)) if _NUMBER.fullmatch(slot) else []
        if not pids:
            there = ", ".join(str(w.slot) for w in self._service.status().workers) or "none"
            raise Refusal("not_found", f"there is no worker {slot}; there are: {there}")
        log.info("admin.recycle_requested", worker=int(slot), pids=pids)
        return json_response({"status": "recycling", "worker": int(slot), "pids": pids}, status=202)

    async def reload(self, _: web.Request) -> web.Response:
        log.info("admin.reload_requested")
        await self._reloader.reload()
        return json_response(
            {"status": "reloading", "models": list(self._service.models)}, status=202
        )

    async def upgrade(self, _: web.Request) -> web.Response:
        log.info("admin.upgrade_requested")
        pid = await self._upgrader.upgrade()
        after = self._upgrader.why_after
        return json_response({"status": "waits" if after else "serves", "pid": pid, "why": after})

    async def drain(self, _: web.Request) -> web.Response:
        log.info("admin.drain_requested")
        notice_s = self._service.drain.stop_admitting(
            "the operator has paused the server: it accepts no requests"
        )
        admitted = self._service.status().admitted
        return json_response(
            {"status": "draining", "admitted": admitted, "notice_s": notice_s}, status=202
        )

    async def resume(self, _: web.Request) -> web.Response:
        if not self._service.drain.resume():
            raise Refusal("shutting_down", self._service.drain.reason)
        log.info("admin.resume_requested")
        return json_response({"status": "serving"})


async def _body(request: web.Request, kind: type[Body]) -> Body:
    try:
        async with asyncio.timeout(_BODY_S):
            body = await request.read()
    except TimeoutError:
        raise Refusal("upload_timeout", f"the body did not arrive within {_BODY_S:g} s") from None
    return decoded(body, kind)
