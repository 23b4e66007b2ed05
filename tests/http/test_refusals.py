"""Refusals: code, status and headers for each exception."""

import msgspec
from aiohttp import web

from modelserver.http.errors import STATUS, error_response, refusal_of
from modelserver.jobs.idempotency import InProgress
from modelserver.refusal import Refusal
from supervisor import JobError, NotReady, PoolError


def test_a_pool_error_and_a_refusal_have_the_same_three_attributes() -> None:
    for error in (PoolError("no", 2.0), Refusal("internal", "no", 2.0)):
        assert (error.code, error.message, error.retry_after_s) == ("internal", "no", 2.0)


def test_an_expected_error_gives_its_code_status_and_headers() -> None:
    for error, status, headers in (
        (NotReady("loading"), 503, {"Retry-After": "5"}),
        (InProgress(), 409, {"Retry-After": "1"}),
        (Refusal("unauthorized", "no key"), 401, {"WWW-Authenticate": "Bearer"}),
        (web.HTTPMethodNotAllowed("PUT", ["GET", "POST"]), 405, {"Allow": "GET, POST"}),
    ):
        known = refusal_of(error)
        assert known is not None
        response = error_response(known, "an id")
        assert response.status == status
        assert headers.items() <= dict(response.headers).items()
        assert isinstance(response.body, bytes)
        assert msgspec.json.decode(response.body)["error"]["code"] == known.code


def test_a_code_that_is_not_in_the_table_is_not_told() -> None:
    assert "made_up" not in STATUS
    assert refusal_of(JobError("made_up", "by a worker that was taken over")) is None
    assert refusal_of(Refusal("made_up", "by mistake")) is None
    assert refusal_of(ValueError("unexpected")) is None
