"""Answers of the HAProxy agent, by the state of the server; test_cluster checks that HAProxy
follows."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from modelserver.admin.agent import line
from modelserver.serving.service import SpeechService


def service(**state: Any) -> SpeechService:
    """Build the part of a service that the agent reads."""
    given = {
        "draining": "",
        "reason": None,
        "hopeless": False,
        "admitted": 0,
        "streams": 0,
        "capacity": 20,
        "able": 2,
        "concurrency": 2,
        "takes_work": True,
        "takes_streams": True,
        "pace": 0.05,
        "limit": 66,
        **state,
    }

    class Streams:
        def __len__(self) -> int:
            return int(given["streams"])

        def capacity(self, _: float) -> int:
            return int(given["capacity"])

    pool = SimpleNamespace(streams=Streams(), hopeless=lambda: given["hopeless"])
    worker = SimpleNamespace(state=SimpleNamespace(value="idle"))
    guard = SimpleNamespace(
        state=SimpleNamespace(
            concurrency=given["concurrency"],
            takes_work=given["takes_work"],
            takes_streams=given["takes_streams"],
        )
    )
    status = SimpleNamespace(
        reason=given["reason"],
        admitted=given["admitted"],
        workers=[worker] * given["able"],
        guard=guard,
        s_per_unit=given["pace"],
    )
    served = SimpleNamespace(pool=pool)

    class Models(dict[str, Any]):
        default = served
        most_admitted = given["limit"]

    made = SimpleNamespace(
        status=lambda: status,
        drain=SimpleNamespace(reason=given["draining"]),
        models=Models(default=served),
    )
    return cast("SpeechService", made)


@pytest.mark.parametrize(
    ("state", "kind", "said"),
    [
        ({}, "", "up ready 10% maxconn:4"),
        ({}, "recordings", "up ready 10% maxconn:4"),
        ({}, "streams", "up ready 10% maxconn:20"),
        ({}, "jobs", "up ready 10%"),
        # Twice as fast, twice the weight; never more than HAProxy knows.
        ({"pace": 0.025}, "", "up ready 20% maxconn:4"),
        ({"able": 64, "concurrency": 64, "pace": 0.01}, "", "up ready 256% maxconn:66"),
        # Starved: one works at a time.
        ({"concurrency": 1}, "", "up ready 5% maxconn:2"),
        # One is replaced just now.
        ({"able": 1}, "", "up ready 5% maxconn:2"),
        ({"able": 0, "reason": "the workers are being started"}, "", "up ready 5% maxconn:2"),
        ({"able": 0, "reason": "no\nmodel, #1", "hopeless": True}, "", "ready down #no model 1"),
        # Memory is short: recordings still, but no more streams; then neither.
        ({"takes_streams": False}, "", "up ready 10% maxconn:4"),
        ({"takes_streams": False}, "streams", "drain"),
        ({"takes_streams": False, "takes_work": False}, "", "drain"),
        ({"draining": "so", "admitted": 1}, "", "drain"),
        ({"draining": "so", "streams": 1}, "", "drain"),
        ({"draining": "so"}, "", "maint #so, and all requests have ended"),
        # A place is a place: a short queue bounds what may come.
        ({"limit": 3}, "", "up ready 10% maxconn:3"),
    ],
)
def test_the_line_is_the_state(state: dict[str, Any], kind: str, said: str) -> None:
    assert line(service(**state), kind) == f"{said}\n"
