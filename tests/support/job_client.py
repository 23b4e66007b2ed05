"""A client of the jobs, for tests."""

from typing import Any

from running import Answer, RunningServer, until

SECRET = "whsec_" + "c2l4dGVlbiBieXRlcyBvciBtb3JlIQ=="
"""Secret of the webhooks."""


def take(server: RunningServer, body: bytes, query: str = "", **headers: str) -> dict[str, Any]:
    answer = server.ask("/v1/jobs" + query, body, **headers)
    assert answer.status == 202, answer.body
    document: dict[str, Any] = answer.json
    assert answer.headers["Location"] == f"/v1/jobs/{document['id']}"
    return document


def over(server: RunningServer, job_id: str, timeout_s: float = 30.0) -> dict[str, Any]:
    def look() -> Any:
        document = server.ask(f"/v1/jobs/{job_id}").json
        return document if document.get("state") in ("done", "failed") else None

    document: dict[str, Any] = until(look, timeout_s, f"the end of {job_id}")
    return document


def code_of(answer: Answer) -> str:
    return str(answer.json["error"]["code"])


def delete(server: RunningServer, job_id: str) -> int:
    import requests

    return requests.delete(f"{server.url}/v1/jobs/{job_id}", timeout=10).status_code
