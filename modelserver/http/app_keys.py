"""Keys under which handlers find what the application holds."""

from aiohttp import web

from modelserver.assistant.service import Assistant
from modelserver.http.connections import Connections
from modelserver.jobs.service import JobService
from modelserver.serving.service import SpeechService

ASSISTANT = web.AppKey("assistant", Assistant)
CONNECTIONS = web.AppKey("connections", Connections)
JOBS = web.AppKey("jobs", JobService)
SERVICE = web.AppKey("service", SpeechService)
