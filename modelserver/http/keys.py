"""Where handlers find what the application holds."""

from aiohttp import web

from modelserver.service import SpeechService

SERVICE = web.AppKey("service", SpeechService)
