"""The public HTTP application: its routes."""

from aiohttp import web

from modelserver.api.about import about
from modelserver.api.ask import ask
from modelserver.api.asyncapi import asyncapi
from modelserver.api.convert import convert
from modelserver.api.health import healthz, readyz, test
from modelserver.api.jobs import add_job_routes
from modelserver.api.openai import add_openai_routes
from modelserver.api.openapi import openapi
from modelserver.api.realtime import client_secrets
from modelserver.assistant.service import Assistant
from modelserver.http.app_keys import ASSISTANT, CONNECTIONS, JOBS, SERVICE
from modelserver.http.connections import Connections
from modelserver.http.middleware import (
    REALTIME_PATH,
    STREAM_PATH,
    each_request,
    expect_continue,
    note_begun,
)
from modelserver.http.pages import add_pages, page
from modelserver.jobs.service import JobService
from modelserver.live.own import stream
from modelserver.live.realtime import realtime
from modelserver.live.vosk import vosk_stream
from modelserver.request.body import hold_continue
from modelserver.serving.service import SpeechService
from modelserver.web import START_PAGE


def build_application(
    service: SpeechService, jobs: JobService, assistant: Assistant, connections: Connections
) -> web.Application:
    """Build the routes of the public side. Handlers that accept bodies limit their sizes."""
    app = web.Application(middlewares=[each_request])
    app.on_response_prepare.append(note_begun)
    app[SERVICE] = service
    app[JOBS] = jobs
    app[ASSISTANT] = assistant
    app[CONNECTIONS] = connections
    app.router.add_post("/api/audio/convert", convert, expect_handler=hold_continue)
    app.router.add_post("/api/ask", ask, expect_handler=hold_continue)
    add_openai_routes(app)
    add_job_routes(app)
    add_pages(app)
    app.router.add_get("/", root, expect_handler=expect_continue)
    app.router.add_get("/ws", vosk_stream, expect_handler=expect_continue)
    app.router.add_get(STREAM_PATH, stream, expect_handler=expect_continue)
    app.router.add_get(REALTIME_PATH, realtime, expect_handler=expect_continue)
    app.router.add_post(
        f"{REALTIME_PATH}/client_secrets", client_secrets, expect_handler=hold_continue
    )
    for path, handler in (
        ("/api/about", about),
        ("/openapi.json", openapi),
        ("/asyncapi.json", asyncapi),
        ("/test", test),
        ("/healthz", healthz),
        ("/readyz", readyz),
    ):
        app.router.add_get(path, handler, expect_handler=expect_continue)
    return app


def build_vosk_application(service: SpeechService, connections: Connections) -> web.Application:
    """Build the application for the port of the Vosk project's protocol."""
    app = web.Application(middlewares=[each_request])
    app.on_response_prepare.append(note_begun)
    app[SERVICE] = service
    app[CONNECTIONS] = connections
    for path in ("/", "/ws"):
        app.router.add_get(path, vosk_stream, expect_handler=expect_continue)
    return app


_page = page(START_PAGE)


async def root(request: web.Request) -> web.StreamResponse:
    """Answer `GET /` with the voice page, or with a stream for clients of the Vosk project's
    protocol, which connect here."""
    if "websocket" in request.headers.get("Upgrade", "").lower():
        return await vosk_stream(request)
    return await _page(request)
