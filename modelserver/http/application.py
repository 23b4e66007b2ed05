"""The public HTTP application: its routes."""

from aiohttp import web

from modelserver.http.connections import Connections
from modelserver.http.convert import convert
from modelserver.http.health import healthz, readyz, test
from modelserver.http.keys import CONNECTIONS, SERVICE
from modelserver.http.middleware import each_request, expect_continue
from modelserver.http.upload import hold_continue
from modelserver.serving.service import SpeechService


def build_application(service: SpeechService, connections: Connections) -> web.Application:
    """The routes. Body sizes are bounded by the handlers that take bodies."""
    app = web.Application(middlewares=[each_request])
    app[SERVICE] = service
    app[CONNECTIONS] = connections
    app.router.add_post("/api/audio/convert", convert, expect_handler=hold_continue)
    for path, handler in (("/test", test), ("/healthz", healthz), ("/readyz", readyz)):
        app.router.add_get(path, handler, expect_handler=expect_continue)
    return app
