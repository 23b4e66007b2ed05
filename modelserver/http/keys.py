"""Where handlers find what the application holds."""

from aiohttp import web

from modelserver.http.connections import Connections
from modelserver.serving.service import SpeechService

CONNECTIONS = web.AppKey("connections", Connections)
SERVICE = web.AppKey("service", SpeechService)
