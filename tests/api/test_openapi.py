"""The OpenAPI document is true: `schemathesis` sends requests that it allows and others, and every
route, parameter and error is in it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from language_model import language_model
from running import RunningServer, start_server

from modelserver.api.asyncapi import asyncapi_document
from modelserver.api.openapi import error_codes, source
from modelserver.api.routes import build_application
from modelserver.http.errors import STATUS
from modelserver.request.parameters import ASK_NAMES, JOB_NAMES, NAMES, STREAM_NAMES
from modelserver.web import PAGES


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, small_settings: dict[str, str]
) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("openapi")
    with language_model() as talker:
        given = {
            **small_settings,
            "MODELSERVER_ASSISTANT_URL": talker.url,
            "MODELSERVER_ASSISTANT_PER_MINUTE": "0",
        }
        with start_server(directory, **given) as running:
            running.wait_ready()
            yield running


@pytest.fixture(scope="module")
def document(server: RunningServer) -> dict[str, Any]:
    found: dict[str, Any] = server.ask("/openapi.json").json
    return found


def test_every_route_is_described(document: dict[str, Any]) -> None:
    nothing: Any = None
    app = build_application(nothing, nothing, nothing, nothing)
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    described = {(method, path) for path, one in document["paths"].items() for method in one}
    pages = {("get", path) for path in ("/", *PAGES)}
    assert routes - pages == described


def test_every_operation_is_in_a_group(document: dict[str, Any]) -> None:
    groups = [group["name"] for group in document["tags"]]
    assert groups[0] == "Recordings"
    operations = [one for path in document["paths"].values() for one in path.values()]
    assert {tuple(one["tags"]) for one in operations} == {(group,) for group in groups}


def test_every_parameter_and_error_is_described(document: dict[str, Any]) -> None:
    convert = document["paths"]["/api/audio/convert"]["post"]
    asked = {one["name"] for one in convert["parameters"] if one["in"] == "query"}
    assert asked == set(NAMES)
    job = document["paths"]["/v1/jobs"]["post"]
    assert {one["name"] for one in job["parameters"] if one["in"] == "query"} == set(JOB_NAMES)
    said = json.dumps(document)
    elsewhere = {
        "not_found", "method_not_allowed", "headers_too_large", "bad_settings", "stream_lost",
        "upgrade_required", "not_upgraded",
    }  # fmt: skip
    for code in STATUS:
        assert code in elsewhere or f"`{code}`" in said, code


def test_nothing_is_described_that_there_is_not() -> None:
    given = source()
    used = {operation.errors for operation in given.operations.values()} - {""}
    named = {code[1:] for codes in given.errors.values() for code in codes if code[0] == "@"}
    assert set(given.errors) == used | named
    assert set(error_codes(f"@{name}" for name in given.errors)) <= set(STATUS)
    lists = [one.query for one in given.operations.values() if isinstance(one.query, tuple)]
    names = {*NAMES, *JOB_NAMES, *ASK_NAMES, *(name for names in lists for name in names)}
    assert names == set(given.parameters)
    assert set(given.stream_parameters) <= set(STREAM_NAMES)


def test_every_parameter_of_a_stream_is_described() -> None:
    stream = asyncapi_document()["channels"]["stream"]
    properties = stream["bindings"]["ws"]["query"]["properties"]
    assert set(properties) == set(STREAM_NAMES)
    assert all(one["description"] for one in properties.values())


def test_it_is_as_the_server_behaves(server: RunningServer, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            Path(sys.executable).parent / "schemathesis",
            "run",
            f"{server.url}/openapi.json",
            "--max-examples=25",
            "--seed=1",
            # Two threads of it trip over each other in Python 3.11's own `ast`.
            "--workers=1",
            "--request-timeout=30",
            "--no-color",
            # A refusal because there is no audio is not a mistake of the schema.
            "--exclude-checks=positive_data_acceptance",
            "--exclude-operation-id-regex=stream|voskStream|realtime",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert server.ask("/readyz").status == 200
