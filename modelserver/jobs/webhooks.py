"""The message that a job is over, to whoever asked for it: signed, and sent again until it is
taken.

Source of headers and signature: Standard Webhooks 1.0 (standardwebhooks.com).
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from modelserver.access.hosts import Refused
from modelserver.jobs.outside import Failed, Outside
from modelserver.jobs.record import Job
from modelserver.jobs.thread import StoreThread
from modelserver.settings import JobSettings
from modelserver.tracing import incoming_context
from supervisor import SpoolFull

log: structlog.stdlib.BoundLogger = structlog.get_logger("jobs")

_AT_ONCE = 8
_ANSWER_S = 15.0
_FIRST_WAIT_S, _LONGEST_WAIT_S, _GROWTH = 2.0, 3600.0, 3.0
_DISK_LATER_S = 15.0
_GONE = 410
_PREFIX = "whsec_"


class SecretUnreadable(Exception):
    """The file of secrets cannot be used; the text says why."""


def read_secrets(file: Path) -> list[bytes]:
    """One a line, as "whsec_" and base64, or as plain text; all of them sign, so that one can be
    exchanged. Raises `SecretUnreadable`."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SecretUnreadable(f"{file} cannot be read: {reason}") from error
    secrets = []
    for line in filter(None, map(str.strip, lines)):
        try:
            coded = line.startswith(_PREFIX)
            secret = base64.b64decode(line[len(_PREFIX) :], validate=True) if coded else b""
        except binascii.Error as error:
            raise SecretUnreadable(f"{file}: what follows {_PREFIX} is no base64") from error
        secrets.append(secret or line.encode())
    if not secrets:
        raise SecretUnreadable(f"{file} is empty")
    if min(map(len, secrets)) < 16:
        raise SecretUnreadable(f"{file}: a secret of less than 16 bytes can be guessed")
    return secrets


def signed_headers(
    secrets: list[bytes], message_id: str, now: float, body: bytes
) -> dict[str, str]:
    """Id, time and signature of a message."""
    stamp = str(int(now))
    text = f"{message_id}.{stamp}.".encode() + body
    made = [base64.b64encode(hmac.digest(secret, text, hashlib.sha256)) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": " ".join(f"v1,{one.decode()}" for one in made),
    }


def wait_before(attempt: int) -> float:
    """Seconds from one attempt, counted from 1, to the next."""
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * _GROWTH ** min(attempt - 1, 20))


class Webhooks:
    """Sends what is due, for as long as `run` runs. Each attempt is written down before it is made:
    one that comes twice, because the server ended in between, says so by its number."""

    def __init__(
        self,
        store: StoreThread,
        outside: Outside,
        settings: Callable[[], JobSettings],
        body_of: Callable[[Job, int], bytes],
    ) -> None:
        """`body_of`: the message of a job, and of the attempt with that number."""
        self._store, self._outside = store, outside
        self._settings, self._body_of = settings, body_of
        self._some = asyncio.Event()

    def look(self) -> None:
        """There may be one that is due."""
        self._some.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            self._some.clear()
            try:
                wait_s = await self._send_those_due()
            except (sqlite3.Error, SpoolFull) as error:
                log.error("jobs.webhooks_wait", reason=str(error))
                wait_s = _DISK_LATER_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._some.wait()

    async def _send_those_due(self) -> float:
        """Until how many seconds from now nothing more is due."""
        while True:
            due, later = await self._store.do(lambda store: store.due(self._store.now(), _AT_ONCE))
            if not due:
                return _LONGEST_WAIT_S if later is None else max(0.05, later - self._store.now())
            await asyncio.gather(*(self._send(job_id) for job_id in due))

    async def _send(self, job_id: str) -> None:
        settings = self._settings()
        job = await self._store.do(lambda store: store.get(job_id, speech=True))
        if job is None or job.delivery is None:
            return
        now, wait_s = self._store.now(), wait_before(job.delivery.attempts + 1)
        delivery = await self._store.do(
            lambda store: store.attempt(job_id, self._store.now() + wait_s)
        )
        if delivery is None:
            return
        said = await self._attempt(job, delivery.url, delivery.attempts, settings)
        late = now - (job.ended or now) > settings.webhook_s
        if said is not None and not late and said != str(_GONE):
            log.warning("job.webhook_failed", job=job_id, attempt=delivery.attempts, reason=said)
            return
        await self._store.do(lambda store: store.delivered(job_id, given_up=said is not None))
        event = "job.webhook_delivered" if said is None else "job.webhook_given_up"
        log.info(event, job=job_id, attempt=delivery.attempts, reason=said)

    async def _attempt(self, job: Job, url: str, number: int, settings: JobSettings) -> str | None:
        """None if it was taken, or why not."""
        try:
            secrets = read_secrets(Path(settings.webhook_secret_file))
            body = await asyncio.to_thread(self._body_of, job, number)
            headers = signed_headers(secrets, job.id, time.time(), body)
            if (above := incoming_context(job.traceparent)) is not None:
                headers |= above.child().headers()
            status, _ = await self._outside.post(url, body, headers, _ANSWER_S)
        except (SecretUnreadable, Refused, Failed) as error:
            return str(error)
        return None if 200 <= status < 300 else str(status)
