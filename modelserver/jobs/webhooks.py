"""Webhooks: signed messages that a job has ended, sent again until they are accepted. Source of
headers and signature: Standard Webhooks 1.0 (standardwebhooks.com)."""

import asyncio
import base64
import binascii
import contextlib
import functools
import hashlib
import hmac
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path

import structlog

from modelserver.jobs.backoff import Backoff
from modelserver.jobs.record import Delivery, Job
from modelserver.jobs.schema import host_of
from modelserver.jobs.store import JobStore
from modelserver.jobs.thread import StoreThread
from modelserver.outbound.client import Failed, OutboundClient
from modelserver.outbound.hosts import Refused
from modelserver.settings import JobSettings
from modelserver.tracing import parent_of, trace_headers
from supervisor import RepeatLimit, SpoolFull

log: structlog.stdlib.BoundLogger = structlog.get_logger("jobs")

_AT_ONCE, _AT_ONCE_EACH = 32, 4
"""Messages that are being sent: of all hosts, and of one."""
_FORGOTTEN_S = 24 * 3600.0
_ANSWER_S = 15.0
_FIRST_WAIT_S, _LONGEST_WAIT_S, _GROWTH = 2.0, 3600.0, 3.0
_DISK_LATER_S = 15.0
_GONE = 410
_PREFIX = "whsec_"


class SecretUnreadable(Exception):
    """The file of secrets cannot be used; the text says why."""


def read_secrets(file: Path) -> list[bytes]:
    """Read the secrets, one a line, as "whsec_" and base64, or as plain text; all of them sign, so
    that one can be replaced. Raises `SecretUnreadable`."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SecretUnreadable(f"{file} cannot be read: {reason}") from error
    secrets = []
    for line in filter(None, map(str.strip, lines)):
        try:
            coded = line.startswith(_PREFIX)
            secret = base64.b64decode(line[len(_PREFIX) :], validate=True) if coded else b""
        except binascii.Error as error:
            raise SecretUnreadable(f"{file}: what follows {_PREFIX} is not base64") from error
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
    """Return the seconds from one attempt, counted from 1, to the next."""
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * _GROWTH ** min(attempt - 1, 20))


class Hosts:
    """Limits for each host: messages at once, and the time of the next attempt after failures.
    Hosts that have failed share half of the slots at most, so that they never hold up the others.
    """

    def __init__(self) -> None:
        self._sending: Counter[str] = Counter()
        self._backoffs: dict[str, Backoff] = {}

    def begins(self, host: str) -> None:
        """Count a message that is being sent to `host`."""
        self._sending[host] += 1

    def ended(self, host: str, now: float, *, taken: bool, retry_after_s: float | None) -> None:
        """Count a message as `taken` or failed; `retry_after_s`: seconds that the host asked to
        wait."""
        self._sending[host] -= 1
        if not self._sending[host]:
            del self._sending[host]
        if taken:
            self._backoffs.pop(host, None)
        else:
            # A whole batch that fails together is one failure.
            backoff = self._backoffs.setdefault(host, Backoff(_LONGEST_WAIT_S / 6))
            if now >= backoff.until:
                backoff.failed(now, min(retry_after_s or 0.0, _LONGEST_WAIT_S))

    def closed(self, now: float) -> list[str]:
        """Return the hosts that are sent nothing now."""
        full = {host for host, count in self._sending.items() if count >= _AT_ONCE_EACH}
        back = {host for host, one in self._backoffs.items() if now < one.until}
        suspects = self._backoffs.keys()
        if sum(self._sending[host] for host in suspects) >= _AT_ONCE // 2:
            back |= suspects
        return sorted(full | back | (suspects & self._sending.keys()))

    def next_s(self, now: float) -> float:
        """Return the seconds until the next host may be tried again."""
        return min(
            (one.until - now for one in self._backoffs.values() if one.until > now),
            default=_LONGEST_WAIT_S,
        )

    def free(self) -> int:
        """Return how many more messages may be sent now."""
        return _AT_ONCE - self._sending.total()

    def forget(self, now: float) -> None:
        """Drop hosts that were sent no message for a day."""
        for host, one in list(self._backoffs.items()):
            if now - one.until > _FORGOTTEN_S:
                del self._backoffs[host]


class Webhooks:
    """Sends what is due, for as long as `run` runs. Each attempt is written down before it is made:
    one that comes twice, because the server ended in between, says so by its number."""

    def __init__(
        self,
        store: StoreThread,
        client: OutboundClient,
        settings: Callable[[], JobSettings],
        body_of: Callable[[Job, int], bytes],
    ) -> None:
        """Send the messages of the store's jobs. `body_of`: returns the message of a job, and of
        the attempt with that number."""
        self._store, self._client = store, client
        self._settings, self._body_of = settings, body_of
        self._some = asyncio.Event()
        self._hosts = Hosts()
        self._repeats = RepeatLimit()
        self._sending: dict[str, asyncio.Task[None]] = {}

    def look(self) -> None:
        """Have `run` look for messages that are due."""
        self._some.set()

    async def run(self) -> None:
        """Send messages when they are due; never returns."""
        try:
            while True:
                self._some.clear()
                try:
                    wait_s = await self._begin_those_due()
                except (sqlite3.Error, SpoolFull) as error:
                    if self._repeats.due(str(error)):
                        log.error("jobs.webhooks_postponed", reason=str(error))
                    wait_s = _DISK_LATER_S
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._some.wait()
        finally:
            sending = tuple(self._sending.values())
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)

    async def _begin_those_due(self) -> float:
        """Begin the attempts that are due; return the seconds until the next may be."""
        while (free := self._hosts.free()) > 0:
            closed = self._hosts.closed(time.monotonic())
            now, most = self._store.now(), free + len(self._sending)
            due, later = await self._store.do(
                functools.partial(JobStore.due, now=now, limit=most, without=closed)
            )
            job_id = next((one for one in due if one not in self._sending), None)
            if job_id is None:
                later_s = _LONGEST_WAIT_S if later is None else later - self._store.now()
                return max(0.05, min(later_s, self._hosts.next_s(time.monotonic())))
            await self._begin(job_id)
        return _LONGEST_WAIT_S  # until one of them has ended

    async def _begin(self, job_id: str) -> None:
        job = await self._store.do(lambda store: store.get(job_id))
        if job is None or job.delivery is None:
            return
        wait_s = wait_before(job.delivery.attempts + 1)
        delivery = await self._store.do(
            lambda store: store.attempt(job_id, self._store.now() + wait_s)
        )
        if delivery is None:
            return
        host = host_of(delivery.url)
        self._hosts.forget(time.monotonic())
        self._hosts.begins(host)
        task = asyncio.create_task(self._send(job, delivery, host))
        self._sending[job_id] = task
        task.add_done_callback(functools.partial(self._sent, job_id))

    def _sent(self, job_id: str, task: asyncio.Task[None]) -> None:
        del self._sending[job_id]
        self._some.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job.webhook_crashed", job=job_id, exc_info=error)

    async def _send(self, job: Job, delivery: Delivery, host: str) -> None:
        settings, taken, retry_after_s = self._settings(), False, None
        try:
            said, retry_after_s = await self._attempt(job, delivery, settings)
            taken = said is None
        finally:
            now = time.monotonic()
            self._hosts.ended(host, now, taken=taken, retry_after_s=retry_after_s)
        now = self._store.now()
        late = now - (job.ended or now) > settings.webhook_s
        try:
            if said is not None and not late and said != str(_GONE):
                log.warning(
                    "job.webhook_failed", job=job.id, attempt=delivery.attempts, reason=said
                )
                if retry_after_s:
                    next_at = now + max(retry_after_s, wait_before(delivery.attempts))
                    await self._store.do(lambda store: store.attempt_at(job.id, next_at))
                return
            await self._store.do(lambda store: store.delivered(job.id, given_up=said is not None))
        except (sqlite3.Error, SpoolFull) as error:
            if self._repeats.due(str(error)):
                log.error("jobs.webhooks_postponed", reason=str(error))
            return
        log.info(
            "job.webhook_delivered" if said is None else "job.webhook_abandoned",
            job=job.id,
            attempt=delivery.attempts,
            reason=said,
        )

    async def _attempt(
        self, job: Job, delivery: Delivery, settings: JobSettings
    ) -> tuple[str | None, float | None]:
        """Send the message once. Return None if it was accepted, or why not; and the seconds for
        which the host asked to wait."""
        try:
            secrets = read_secrets(Path(settings.webhook_secret_file))
            whole = await self._store.do(lambda store: store.get(job.id, speech=True))
            if whole is None:
                return str(_GONE), None  # it was deleted meanwhile
            body = await asyncio.to_thread(self._body_of, whole, delivery.attempts)
            headers = signed_headers(secrets, job.id, time.time(), body)
            headers |= trace_headers(parent_of(job.traceparent))
            status, asked = await self._client.post(delivery.url, body, headers, _ANSWER_S)
        except (SecretUnreadable, Refused, Failed, sqlite3.Error) as error:
            return str(error), None
        if 200 <= status < 300:
            return None, None
        return str(status), retry_after(asked)


def retry_after(text: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, a number or a date, up to an hour (RFC
    9110, 10.2.3); None for anything else."""
    if text is None:
        return None
    seconds = None
    if text.strip().isdecimal() and text.isascii():
        seconds = float(text.strip()[:9])
    else:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
    return None if seconds is None else min(_LONGEST_WAIT_S, max(0.0, seconds))
