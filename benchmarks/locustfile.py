"""Load for locust: people who send files of several lengths, programs that use OpenAI's API, live
speakers, jobs, and a monitoring client. Name a class to have only that:

    locust -f benchmarks/locustfile.py --host http://127.0.0.1:8091 Speaker Talker

    locust -f benchmarks/locustfile.py --host http://127.0.0.1:8091

"Steady" comes only if it is named: files without a pause, for a server's limit.

Settings, as environment variables:
    LOCUST_AUDIO          a directory of WAV files instead of synthetic speech
    LOCUST_LONGEST_S      cut "Steady"'s files to that
    LOCUST_LATENCY_S      fail if the 95th percentile of short files is above this (none by default)
    LOCUST_ADMIN          the admin side to watch: http://host:port, or the path of its Unix socket
    LOCUST_ADMIN_TOKEN    its token, where it is over TCP
"""

import itertools
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import utterances
from locust import HttpUser, User, between, constant, events, tag, task
from locust.env import Environment
from waves import wav
from websockets.sync.client import connect

from modelserver.admin.address import AdminAddress
from modelserver.admin.client import ask

CONVERT = "/api/audio/convert"
_AUDIO = Path(os.environ["LOCUST_AUDIO"]) if "LOCUST_AUDIO" in os.environ else None
_PCM = utterances.utterances(_AUDIO, 24)
SHORT = [wav(pcm) for pcm in _PCM]
MIDDLE = [wav(b"".join(_PCM[at : at + 4])) for at in range(0, len(_PCM), 4)]
LONG = [wav(b"".join(_PCM))]
_LONGEST = int(float(os.environ.get("LOCUST_LONGEST_S", "1000")) * utterances.RATE) * 2
STEADY = [wav(pcm[:_LONGEST]) for pcm in sorted(_PCM, key=len, reverse=True)]
_PIECE = utterances.RATE // 5 * 2
_NUMBERS = itertools.count()


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


class Steady(HttpUser):
    """Client that sends one file after the other, without a pause, on a reused connection."""

    weight = int("Steady" in sys.argv)  # only where it is named
    wait_time = constant(0)

    def on_start(self) -> None:
        self._next = next(_NUMBERS)

    @task
    def file(self) -> None:
        body = STEADY[self._next % len(STEADY)]
        self._next += int(self.environment.parsed_options.num_users or 1)
        self.client.post(CONVERT, data=body, headers={"Content-Type": "audio/wav"}, name="steady")


class OpenAI(HttpUser):
    """A program that was written for OpenAI's transcriptions."""

    weight = 2
    wait_time = between(0.1, 0.5)

    @task
    def transcription(self) -> None:
        files = {"file": ("speech.wav", random.choice(SHORT), "audio/wav")}
        with self.client.post(
            "/v1/audio/transcriptions", files=files, data={"model": "whisper-1"},
            name="OpenAI (4 s)", catch_response=True,
        ) as response:  # fmt: skip
            if response.status_code != 200 or "text" not in response.json():
                response.failure(f"{response.status_code}: {response.text[:200]}")


class Talker(User):
    """Speaks over the Vosk protocol, at the pace of speech. Two figures: how late a result is after
    its piece, and the last one after the end."""

    weight = 2
    wait_time = between(0.1, 0.5)

    @task
    def talk(self) -> None:
        pcm = random.choice(_PCM)
        url = str(self.host).replace("http", "ws", 1) + "/ws"
        with self._measured("whole stream"), connect(url, open_timeout=30) as socket:
            socket.send(json.dumps({"config": {"sample_rate": utterances.RATE}}))
            for at in range(0, len(pcm), _PIECE):
                sent = time.perf_counter()
                with self._measured("result of a piece"):
                    socket.send(pcm[at : at + _PIECE])
                    socket.recv(30)
                time.sleep(max(0.0, 0.2 - (time.perf_counter() - sent)))
            with self._measured("last result"):
                socket.send('{"eof" : 1}')
                json.loads(socket.recv(30))["text"]

    @contextmanager
    def _measured(self, name: str) -> Iterator[None]:
        """Record one of locust's figures."""
        began, error = time.perf_counter(), None
        try:
            yield
        except Exception as failed:  # noqa: BLE001 - locust counts it
            error = failed
        self.environment.events.request.fire(
            request_type="WS",
            name=name,
            response_time=(time.perf_counter() - began) * 1000,
            response_length=0,
            exception=error,
            context={},
        )
        if error is not None and name != "whole stream":
            raise error


class Clerk(HttpUser):
    """Hands in a job, and asks until it is done."""

    weight = 1
    wait_time = between(0.5, 1.0)

    @task
    def job(self) -> None:
        with self.client.post(
            "/v1/jobs", data=random.choice(MIDDLE), headers={"Content-Type": "audio/wav"},
            name="/v1/jobs", catch_response=True,
        ) as response:  # fmt: skip
            if response.status_code != 202:
                response.failure(f"{response.status_code}: {response.text[:200]}")
                return
            job = response.json()["id"]
        for _ in range(240):
            with self.client.get(
                f"/v1/jobs/{job}", name="/v1/jobs/ID", catch_response=True
            ) as response:
                if response.status_code != 200:
                    response.failure(f"{response.status_code}: {response.text[:200]}")
                    return
                state = response.json()["state"]
                if state == "failed":
                    response.failure(response.text[:200])
                if state in ("done", "failed"):
                    return
            time.sleep(0.5)


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
