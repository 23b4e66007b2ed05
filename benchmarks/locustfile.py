"""Load for locust: people who send files of several lengths, and somebody who watches.

    locust -f benchmarks/locustfile.py --host http://127.0.0.1:8091

Settings, as environment variables:
    LOCUST_AUDIO          a directory of WAV files instead of synthetic speech
    LOCUST_LATENCY_S      fail if the 95th percentile of short files is above this (none by default)
    LOCUST_ADMIN          the admin side to watch: http://host:port, or the path of its Unix socket
    LOCUST_ADMIN_TOKEN    its token, where it is over TCP
"""

import os
import random
import time
from pathlib import Path

import utterances
from locust import HttpUser, between, events, tag, task
from locust.env import Environment
from waves import wav

from modelserver.admin.address import AdminAddress
from modelserver.admin.client import ask

CONVERT = "/api/audio/convert"
_AUDIO = Path(os.environ["LOCUST_AUDIO"]) if "LOCUST_AUDIO" in os.environ else None
_PCM = utterances.utterances(_AUDIO, 24)
SHORT = [wav(pcm) for pcm in _PCM]
MIDDLE = [wav(b"".join(_PCM[at : at + 4])) for at in range(0, len(_PCM), 4)]
LONG = [wav(b"".join(_PCM))]


class Speaker(HttpUser):
    """Sends a file, waits for the text, thinks."""

    weight = 9
    wait_time = between(0.1, 0.5)

    @task(12)
    @tag("short")
    def short(self) -> None:
        self._convert(random.choice(SHORT), "short (4 s)")

    @task(3)
    @tag("middle")
    def middle(self) -> None:
        self._convert(random.choice(MIDDLE), "middle (16 s)")

    @task(1)
    @tag("long")
    def long(self) -> None:
        self._convert(random.choice(LONG), "long (100 s)")

    def _convert(self, body: bytes, name: str) -> None:
        headers = {"Content-Type": "audio/wav"}
        with self.client.post(
            CONVERT, data=body, headers=headers, name=name, catch_response=True
        ) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {response.text[:200]}")
            elif "text" not in response.json():
                response.failure("no text in the answer")


class Watcher(HttpUser):
    """Looks at the health pages, as a monitor does."""

    fixed_count = 1
    wait_time = between(0.5, 1.0)

    @task
    def ready(self) -> None:
        self.client.get("/readyz", name="/readyz")

    @task
    def health(self) -> None:
        where = os.environ.get("LOCUST_ADMIN")
        if where is None:
            return
        started = time.perf_counter()
        error: Exception | None = None
        size = 0
        try:
            status, body = ask(_address(where), "GET", "/admin/health", _token())
            size = len(body)
            if status != 200:
                error = RuntimeError(f"{status}: {body[:200]!r}")
        except OSError as failed:
            error = failed
        self.environment.events.request.fire(
            request_type="GET",
            name="/admin/health",
            response_time=(time.perf_counter() - started) * 1000,
            response_length=size,
            exception=error,
            context={},
        )


def _address(where: str) -> AdminAddress:
    if where.startswith("http://"):
        host, _, port = where.removeprefix("http://").rpartition(":")
        return AdminAddress(host=host, port=int(port))
    return AdminAddress(path=Path(where))


def _token() -> str | None:
    return os.environ.get("LOCUST_ADMIN_TOKEN")


@events.quitting.add_listener
def judge(environment: Environment, **_: object) -> None:
    """Exit status 1 for any failed request, or for a latency above the threshold."""
    stats = environment.stats
    limit = float(os.environ.get("LOCUST_LATENCY_S", "inf"))
    p95 = stats.get("short (4 s)", "POST").get_response_time_percentile(0.95) / 1000
    if stats.total.num_requests == 0:
        print("no request was made")
    elif stats.total.num_failures:
        print(f"{stats.total.num_failures} requests have failed")
    elif p95 > limit:
        print(f"the 95th percentile of short files is {p95:.2f} s; {limit:g} s are allowed")
    else:
        environment.process_exit_code = 0
        return
    environment.process_exit_code = 1
