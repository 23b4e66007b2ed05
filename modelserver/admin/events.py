"""Server-sent events for the admin page: "now" each second with the health document and the samples
since the last one; "deaths" when there are new ones; "log" with log events."""

import asyncio
from collections.abc import Callable

import msgspec
from aiohttp import web

from modelserver.admin.actions import ModelDesk, Pulling
from modelserver.admin.health import DeathHealth, Health
from modelserver.admin.history import History, Sample
from modelserver.http.events import EventStream
from modelserver.logs import recent_events

_EACH_S = 1.0


class Now(msgspec.Struct):
    """The event of each second. Deaths have an event of their own."""

    health: Health
    samples: list[Sample]
    pulling: Pulling | None


async def follow(
    request: web.Request, health: Callable[[], Health], history: History, desk: ModelDesk
) -> web.StreamResponse:
    """Send events until the client disconnects."""
    events = EventStream(request)
    await events.open()
    sampled = history.short[-1].time if history.short else 0.0
    logged = recent_events.count
    deaths: tuple[int, float] | None = None
    try:
        while True:
            document = health()
            known = (
                len(document.last_deaths),
                max((d.time for d in document.last_deaths), default=0),
            )
            if known != deaths:
                deaths = known
                await events.send("deaths", _without_moments(document.last_deaths))
            document.last_deaths = []
            samples = history.since(sampled)
            sampled = samples[-1].time if samples else sampled
            await events.send("now", Now(document, samples, desk.pulling))
            if new := recent_events.since(logged):
                logged = recent_events.count
                await events.send("log", new)
            await asyncio.sleep(_EACH_S)
    except ConnectionError:
        return events.response


def _without_moments(deaths: list[DeathHealth]) -> list[DeathHealth]:
    """Remove the readings of older deaths, which the health document has."""
    for death in deaths[8:]:
        death.memory = []
    return deaths
