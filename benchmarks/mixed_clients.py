"""Clients of every kind at once, each answer accounted for: files on reused and on new connections,
live streams, jobs. For tests in which clients must not notice that servers come and go."""

import contextlib
import http.client
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

_COME_AGAIN = (1001, 1012)
_RATE = 16_000
_PIECE = _RATE // 2 * 2
_LONGEST_S = 120.0
_REFUSED_S = 1.0
"""Seconds before a refused client asks again."""


@dataclass
class Account:
    """Account of everything that was asked."""

    done: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    longest_s: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ended(self, kind: str, began: float, problem: str = "") -> None:
        """Record the end of a request."""
        took = time.monotonic() - began
        with self._lock:
            if problem:
                self.failed.append(f"{kind}: {problem} after {took:.2f} s")
            else:
                self.done[kind] += 1
                self.longest_s[kind] = max(self.longest_s.get(kind, 0.0), took)


class MixedClients:
    """Clients of every kind. Use as `with`; at the end every client finishes its requests, and
    `account` is complete."""

    def __init__(
        self,
        url: str,
        wav: bytes,
        *,
        kept: int = 2,
        fresh: int = 1,
        streams: int = 1,
        jobs: int = 1,
        pace: float = 1.0,
        pause_s: float = 0.4,
    ) -> None:
        """Prepare the clients. `url`: address of the server, whichever process serves it; `pace`:
        of speech, for streams; `pause_s`: between two files of a client; without it, jobs would
        wait forever."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._wav, self._pace, self._pause_s = wav, pace, pause_s
        self.account = Account()
        self._stop = threading.Event()
        kinds: list[Callable[[], None]] = [self._kept] * kept + [self._fresh] * fresh
        kinds += [self._stream] * streams + [self._jobs] * jobs
        self._threads = [threading.Thread(target=kind, daemon=True) for kind in kinds]

    def __enter__(self) -> "MixedClients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(_LONGEST_S)
            if thread.is_alive():
                self.account.failed.append("a client that does not come to its end")

    # --- files ----------------------------------------------------------------------------------

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, self._port, timeout=_LONGEST_S)

    def _kept(self) -> None:
        """Use one connection for as long as the server allows, as proxies do."""
        connection = self._connection()
        while not self._stop.is_set():
            self._convert("file on a kept connection", connection)
            self._stop.wait(self._pause_s)
        connection.close()

    def _fresh(self) -> None:
        while not self._stop.is_set():
            with contextlib.closing(self._connection()) as connection:
                self._convert("file on a new connection", connection)
            self._stop.wait(self._pause_s)

    def _convert(self, kind: str, connection: http.client.HTTPConnection) -> None:
        began = time.monotonic()
        try:
            connection.request(
                "POST", "/api/audio/convert", self._wav, {"Content-Type": "audio/wav"}
            )
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self.account.ended(kind, began, repr(error))
            return
        self.account.ended(kind, began, "" if answer.status == 200 else _said(answer.status, body))

    # --- streams --------------------------------------------------------------------------------

    def _stream(self) -> None:
        """Open one stream after the other; a stream that is asked to come again does, and was not
        lost."""
        pcm = self._wav[44:]
        while not self._stop.is_set():
            began, problem = time.monotonic(), ""
            try:
                with connect(f"ws://{self._host}:{self._port}/ws", open_timeout=60) as client:
                    problem = self._talk(client, pcm)
            except ConnectionClosed as error:
                code = error.rcvd.code if error.rcvd else 1006
                if code not in _COME_AGAIN:
                    problem = f"closed with {code}"
            except InvalidStatus as error:
                problem = _said(error.response.status_code, error.response.body or b"")
            except Exception as error:  # noqa: BLE001 - the connection's, or the handshake's
                problem = repr(error)
            self.account.ended("stream", began, problem)
            if problem:
                self._stop.wait(_REFUSED_S)

    def _talk(self, client: ClientConnection, pcm: bytes) -> str:
        client.send(json.dumps({"config": {"sample_rate": _RATE}}))
        for at in range(0, len(pcm), _PIECE):
            client.send(pcm[at : at + _PIECE])
            client.recv(60)
            self._stop.wait(_PIECE / 2 / _RATE / self._pace)
        client.send('{"eof" : 1}')
        return "" if "text" in json.loads(client.recv(60)) else "no last result"

    # --- jobs -----------------------------------------------------------------------------------

    def _jobs(self) -> None:
        """Create jobs, and poll them until they are done."""
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                problem = self._job()
            except (OSError, http.client.HTTPException) as error:
                problem = repr(error)
            self.account.ended("job", began, problem)
            if problem:
                self._stop.wait(_REFUSED_S)

    def _job(self) -> str:
        key = {"Idempotency-Key": uuid.uuid4().hex, "Content-Type": "audio/wav"}
        status, body = self._ask("POST", "/v1/jobs", self._wav, key)
        if status != 202:
            return _said(status, body)
        job = json.loads(body)["id"]
        deadline = time.monotonic() + _LONGEST_S
        while time.monotonic() < deadline:
            status, body = self._ask("GET", f"/v1/jobs/{job}")
            if status != 200:
                return _said(status, body)
            if (state := json.loads(body)["state"]) in ("done", "failed"):
                return "" if state == "done" else body.decode()
            time.sleep(0.1)
        return "it was never done"

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        with contextlib.closing(self._connection()) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()


def _said(status: int, body: bytes) -> str:
    return f"{status} {body[:300].decode(errors='replace')}"


@contextlib.contextmanager
def mixed_clients(url: str, wav: bytes, **counts: Any) -> Iterator[Account]:
    """Run the clients during the block; the account must have no failures."""
    with MixedClients(url, wav, **counts) as clients:
        yield clients.account
    assert not clients.account.failed, clients.account.failed
    assert clients.account.done
