"""Jobs over HTTP: `/v1/jobs` and `/v1/jobs/{id}`."""

import asyncio
import contextlib
import hashlib
import os
import re
import time
from collections.abc import Mapping

import msgspec
from aiohttp import web

from modelserver.api.progress import OurStory, stream_events
from modelserver.api.transcripts import (
    TEXTS,
    Transcript,
    as_text,
    off_the_loop,
    text_response,
    transcript,
)
from modelserver.audio.channels import MIX
from modelserver.http.app_keys import JOBS, SERVICE
from modelserver.http.errors import json_response
from modelserver.http.middleware import KEY_NAME, NOTES, REQUEST_ID, Handler, expect_continue
from modelserver.jobs.record import STATES, Failure, Job, Repeat, Shown, State, Wanted
from modelserver.jobs.service import JobService
from modelserver.jobs.work import longest_audio_s
from modelserver.outbound.client import Failed, Patience
from modelserver.refusal import Refusal
from modelserver.request.accept import wants_events
from modelserver.request.body import BodyReader, Received, hold_continue, must_be_acceptable
from modelserver.request.parameters import (
    FORMATS,
    JOB_NAMES,
    Parameters,
    read_flag,
    read_parameters,
)
from modelserver.settings import LimitSettings
from modelserver.speech.joining import without_words
from modelserver.speech.messages import OnProgress, Speech, SpeechRequest, recognition_of
from modelserver.timestamps import Timestamp, timestamp
from modelserver.tracing import trace_headers
from supervisor import Spool

MOST_LISTED = 100
"""Most jobs in one answer."""
_REPEAT_KEY = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,254}[\x21-\x7e])?")


class Webhook(msgspec.Struct, omit_defaults=True):
    """Delivery of the message that the job has ended. `state`: "waiting", "delivered" or
    "given_up"."""

    url: str
    state: str
    attempts: int


class JobDocument(msgspec.Struct, omit_defaults=True):
    """A job. `duration`: seconds of audio, once it is done; `progress`: from 0 to 1; `position`:
    its position among those that wait, from 1; `expires`: when it is forgotten."""

    id: str
    state: State
    created: Timestamp
    request_id: str
    progress: float
    duration: float | None = None
    position: int | None = None
    started: Timestamp | None = None
    ended: Timestamp | None = None
    expires: Timestamp | None = None
    result: Transcript | str | None = None
    error: Failure | None = None
    webhook: Webhook | None = None


class JobList(msgspec.Struct, omit_defaults=True):
    """The newest first, without results. `next`: what to send as `before` for those that follow."""

    jobs: list[JobDocument]
    next: str | None = None


class Message(msgspec.Struct):
    """Body of a webhook request. `attempt`: counted from 1; above 1 the message may have been
    delivered before."""

    type: str
    timestamp: Timestamp
    attempt: int
    data: JobDocument


def add_job_routes(app: web.Application) -> None:
    """Add the routes of jobs."""
    app.router.add_post("/v1/jobs", _in_use(add), expect_handler=hold_continue)
    app.router.add_get("/v1/jobs", _in_use(list_jobs), expect_handler=expect_continue)
    app.router.add_get("/v1/jobs/{id}", _in_use(show), expect_handler=expect_continue)
    app.router.add_delete("/v1/jobs/{id}", _in_use(delete), expect_handler=expect_continue)


def _in_use(handler: Handler) -> Handler:
    """Wrap a handler so that jobs are open until it has answered; requests that follow a job do not
    keep them open."""

    async def with_jobs(request: web.Request) -> web.StreamResponse:
        jobs = request.app[JOBS]
        await jobs.opened()
        if "text/event-stream" in request.headers.get("Accept", ""):
            return await handler(request)
        with jobs.in_use():
            return await handler(request)

    return with_jobs


def message_of(job: Job, attempt: int) -> bytes:
    """Return the body of the message that the job has ended."""
    document = _document(job)
    now = timestamp(time.time())
    return msgspec.json.encode(Message(f"job.{job.state}", now, attempt, document))


# --- taking one in --------------------------------------------------------------------------------


async def add(request: web.Request) -> web.StreamResponse:
    """Answer `POST /v1/jobs`: 202 when the audio is on the disk."""
    jobs, service = request.app[JOBS], request.app[SERVICE]
    limits = _job_limits(request)
    must_be_acceptable(request, limits)
    asked, warnings = _read(request, {})
    owner, key = request.get(KEY_NAME) or "", _repeat_key(request)
    async with contextlib.AsyncExitStack() as held:
        held.enter_context(jobs.repeats.once(owner, key))
        # What is only asked for again is held to no limit of new jobs, and takes no room of theirs.
        again = key is not None and await jobs.repeats.known(owner, key)
        if again:
            spool = await held.enter_async_context(service.open_spool())
        else:
            access = service.access.request(request.get(KEY_NAME), jobs.unfinished(owner))
            held.enter_context(access)
            arriving = jobs.arriving(owner, request.content_length)
            spool = await held.enter_async_context(arriving)
        await held.enter_async_context(service.drain.uploading())
        body = BodyReader(request, spool, limits, asked.raw, link="url")
        received = Received(0.0, known=False)
        if asked.url is None or request.can_read_body:
            received = await body.receive()
            asked, warnings = _read(request, received.fields)
        if asked.url is not None and spool.size:
            raise Refusal("bad_parameter", "the request has both audio and a url: send one of them")
        wanted = _wanted(asked, warnings)
        repeat = None if key is None else await _repeat(key, spool, wanted, asked)
        if repeat is not None and (same := await jobs.repeats.same(owner, repeat)) is not None:
            return _taken(request, same, new=False)
        if again:
            raise _deleted_meanwhile()
        if asked.url is not None:
            received = await _fetched(jobs, asked.url, body, limits)
        request[NOTES].update(bytes=spool.size, audio_s=round(received.seconds, 3))
        job, new = await jobs.add(
            spool,
            wanted,
            owner=owner,
            seconds=received.seconds,
            webhook=asked.webhook,
            repeat=repeat,
            request_id=request[REQUEST_ID],
            traceparent=trace_headers().get("traceparent", ""),
        )
    return _taken(request, job, new=new)


def _taken(request: web.Request, job: Job, *, new: bool) -> web.Response:
    request[NOTES].update(job=job.id)
    headers = {"Location": f"/v1/jobs/{job.id}"}
    if not new:
        headers["Idempotency-Replayed"] = "true"
    return json_response(_described(request.app[JOBS], job), status=202, headers=headers)


def _deleted_meanwhile() -> Refusal:
    return Refusal(
        "not_ready",
        "the job of this Idempotency-Key was deleted just now: send it again",
        retry_after_s=1.0,
    )


def _job_limits(request: web.Request) -> LimitSettings:
    """Return the limits of a request, for the longer recordings that a job may have."""
    settings = request.app[SERVICE].settings
    limits, longest_s = settings.limits, longest_audio_s(settings)
    body = int(limits.body * longest_s / limits.audio_s)
    return msgspec.structs.replace(limits, audio_s=longest_s, body=body)


def _read(request: web.Request, fields: Mapping[str, str]) -> tuple[Parameters, list[str]]:
    """Read the parameters and reject now what can be rejected now. Raises what `read_parameters`,
    `ModelRegistry.find` and `AllowedHosts.check` raise."""
    content_type = request.headers.get("Content-Type", "")
    query = list(request.query.items())
    asked, warnings = read_parameters(query, fields, content_type, JOB_NAMES)
    request.app[SERVICE].models.find(asked.model, asked.language, asked.phrases)
    jobs = request.app[JOBS]
    if asked.url is not None:
        jobs.url_hosts.check(asked.url)
    if asked.webhook is not None:
        jobs.webhook_hosts.check(asked.webhook)
    return asked, warnings


def _wanted(asked: Parameters, warnings: list[str]) -> Wanted:
    """Return the job's work: all that can be asked of the transcript later is recognised now."""
    speech = SpeechRequest(
        words=True,
        words_asked_for=asked.words,
        segments=True,
        partials=True,
        channels=asked.channels,
        raw=asked.raw,
        **recognition_of(asked),
    )
    segments = asked.segments or asked.alternatives > 0 or asked.channels != MIX
    shown = Shown(asked.format, asked.words, segments)
    return Wanted(speech, shown, asked.model, asked.language, warnings)


async def _fetched(jobs: JobService, url: str, body: BodyReader, limits: LimitSettings) -> Received:
    patience = Patience(limits.upload_idle_s, limits.upload_min_bytes_s)
    try:
        return await body.take(jobs.outbound.fetch(url, patience))
    except Failed as error:
        raise Refusal("url_failed", f"url: {error}") from error


def _repeat_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _REPEAT_KEY.fullmatch(key):
        raise Refusal("bad_parameter", "an Idempotency-Key has up to 256 printable characters")
    return key


async def _repeat(key: str, spool: Spool, wanted: Wanted, asked: Parameters) -> Repeat:
    def digest() -> str:
        made = hashlib.sha256(msgspec.json.encode((wanted, asked.url, asked.webhook)))
        offset = 0
        while asked.url is None and (data := os.pread(spool.fileno(), 1 << 20, offset)):
            made.update(data)
            offset += len(data)
        return made.hexdigest()

    await spool.flush()
    return Repeat(key, await asyncio.to_thread(digest))


# --- those that are there -------------------------------------------------------------------------


async def show(request: web.Request) -> web.StreamResponse:
    """Answer `GET /v1/jobs/{id}`: the job with its result, the result alone, or its progress as
    events."""
    jobs = request.app[JOBS]
    asked = dict(request.query)
    for name in asked:
        if name not in ("format", "words", "segments"):
            raise Refusal("bad_parameter", f"there is no parameter {name[:60]!r}")
    form = asked.get("format")
    if form is not None and form not in FORMATS:
        raise Refusal("bad_parameter", f"format={form[:40]!r}; there are: {', '.join(FORMATS)}")
    flags = {n: read_flag(n, asked[n]) for n in ("words", "segments") if n in asked}
    job = await _found(request)
    if wants_events(request):
        return await _followed(request, job)
    if form in TEXTS:
        speech = _speech(job)
        return await off_the_loop(speech, lambda: text_response(speech, form))
    shown = msgspec.structs.replace(job.wanted.shown, **flags)
    if form is not None:
        shown = msgspec.structs.replace(shown, format=form)
    return await asyncio.to_thread(lambda: json_response(_described(jobs, job, shown)))


async def list_jobs(request: web.Request) -> web.StreamResponse:
    """Answer `GET /v1/jobs`: the jobs of the key, or all jobs if no key is needed."""
    jobs = request.app[JOBS]
    asked = dict(request.query)
    for name in asked:
        if name not in ("state", "limit", "before"):
            raise Refusal("bad_parameter", f"there is no parameter {name[:60]!r}")
    state = next((one for one in STATES if one == asked.get("state")), None)
    if state is None and "state" in asked:
        raise Refusal("bad_parameter", f"state is one of: {', '.join(STATES)}")
    text = asked.get("limit", "20")
    if not re.fullmatch("[0-9]{1,3}", text) or not 0 < int(text) <= MOST_LISTED:
        raise Refusal("bad_parameter", f"limit is from 1 to {MOST_LISTED}")
    limit = int(text)
    owner = request.get(KEY_NAME, "")
    found, more = await jobs.listed(owner, state, asked.get("before"), limit)
    documents = [
        _document(job, jobs.work.position(job.id), jobs.work.done_s(job.id), jobs.keep_until(job))
        for job in found
    ]
    return json_response(JobList(documents, more))


async def delete(request: web.Request) -> web.StreamResponse:
    """Answer `DELETE /v1/jobs/{id}`: delete the job, whatever its state."""
    job = await _found(request, speech=False)
    await request.app[JOBS].delete(job.id)
    return web.Response(status=204)


async def _found(request: web.Request, *, speech: bool = True) -> Job:
    """Return the job that the path names. Raises `Refusal`."""
    jobs, job_id = request.app[JOBS], request.match_info["id"]
    job = await jobs.get(job_id, speech=speech)
    if job is not None and job.owner == request.get(KEY_NAME, ""):
        return job
    where, dash, _ = job_id.rpartition("-")
    if dash and where != jobs.name:
        raise Refusal(
            "job_elsewhere",
            f"there is no job {job_id[:100]!r} here: this is {jobs.name}, and its id says that it "
            f"is with {where[:100]}",
        )
    raise Refusal(
        "job_not_found", f"there is no job {job_id[:100]!r}; it may have expired, or was deleted"
    )


def _speech(job: Job) -> Speech:
    """Raises `Refusal` where there is none."""
    if job.speech is not None:
        return job.speech
    if job.error is not None:
        raise Refusal("job_failed", f"the job has failed: {job.error.message}")
    raise Refusal("job_unfinished", f"the job is {job.state}: there is no transcript yet")


async def _followed(request: web.Request, job: Job) -> web.StreamResponse:
    """Send server-sent events until the job has ended; the last holds the job, or says that the job
    continues after a restart."""
    jobs = request.app[JOBS]

    async def work(on_progress: OnProgress) -> JobDocument:
        await jobs.work.follow(job.id, on_progress)
        now = await jobs.get(job.id, speech=True)
        if now is None:
            raise Refusal("job_not_found", "the job was deleted")
        if not now.over:
            raise Refusal(
                "shutting_down",
                "the server is shutting down and the job continues: reconnect to follow it",
            )
        return await asyncio.to_thread(_described, jobs, now)

    return await stream_events(request, work, OurStory())


def _described(jobs: JobService, job: Job, shown: Shown | None = None) -> JobDocument:
    position = jobs.work.position(job.id)
    return _document(job, position, jobs.work.done_s(job.id), jobs.keep_until(job), shown)


def _document(
    job: Job,
    position: int | None = None,
    done_s: float = 0.0,
    expires: float | None = None,
    shown: Shown | None = None,
) -> JobDocument:
    """Return the document of a job, with its result where `job.speech` is there."""
    delivery = job.delivery
    progress = 1.0 if job.over else min(1.0, done_s / job.seconds) if job.seconds else 0.0
    return JobDocument(
        id=job.id,
        state=job.state,
        created=timestamp(job.created),
        request_id=job.request_id,
        duration=round(job.seconds, 3) if job.state == "done" else None,
        progress=round(progress, 4),
        position=position if job.state == "waiting" else None,
        started=None if job.started is None else timestamp(job.started),
        ended=None if job.ended is None else timestamp(job.ended),
        expires=None if expires is None else timestamp(expires),
        result=None if job.speech is None else _result(job, job.speech, shown or job.wanted.shown),
        error=job.error,
        webhook=Webhook(delivery.url, delivery.state, delivery.attempts) if delivery else None,
    )


def _result(job: Job, speech: Speech, shown: Shown) -> Transcript | str:
    if shown.format in TEXTS:
        return as_text(speech, shown.format)
    segments = speech.segments if shown.segments else []
    if not shown.words:
        segments = [without_words(segment) for segment in segments]
    return transcript(
        msgspec.structs.replace(speech, segments=segments),
        words=shown.words,
        segments=shown.segments,
        warnings=job.wanted.warnings,
        request_id=job.request_id,
    )
