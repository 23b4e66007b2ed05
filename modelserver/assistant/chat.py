"""A client of `POST /v1/chat/completions`: a conversation in, the answer bit by bit.

Source: OpenAI's API reference, and what vLLM, Ollama and llama.cpp send in its place.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Literal

import aiohttp
import msgspec

from modelserver import __version__
from modelserver.assistant.ending import Ending, Finish
from modelserver.assistant.thoughts import Said, Thought, tell_thoughts_apart
from modelserver.outbound.reasons import in_words
from modelserver.refusal import Refusal
from modelserver.settings import AssistantSettings

_LONGEST_LINE = 1 << 20
_MOST_ANSWER_BYTES = 4 << 20
"""Most bytes of a whole response; a longer one is cut off."""
_LONGEST_ERROR = 8192
_LIMIT_NAMES = ("max_tokens", "max_completion_tokens")
"""Names of the parameter that limits the answer's length: newer models of OpenAI reject the first.
"""
_SHOWN = 300

_FINISHES: dict[str, Finish] = {"length": "length", "content_filter": "content_filter"}


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Earlier question or answer of the conversation."""

    role: Literal["user", "assistant"]
    content: str


class ChatFailed(Refusal):
    """Failure to answer, or to finish an answer. `code`: one of the API's errors."""

    def __init__(
        self,
        code: str,
        message: str,
        retry_after_s: float | None = None,
        *,
        status: int | None = None,
    ) -> None:
        """Describe the failure. `status`: of the language model's answer, if that is what
        failed."""
        super().__init__(code, message, retry_after_s)
        self.status = status


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: Any = None
    """Thoughts: DeepSeek's API, vLLM and llama.cpp."""
    reasoning: Any = None
    """Thoughts: Ollama, OpenRouter and newer versions of vLLM."""


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    """Replacement of `delta` from servers that do not stream."""
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    model: str | None = None
    error: Any = None


class _Refusal(msgspec.Struct):
    error: Any = None


class Chat:
    """Use as `async with`, or close it."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._limit_name = _LIMIT_NAMES[0]

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def answer(
        self,
        settings: AssistantSettings,
        history: list[Turn],
        question: str,
        headers: Mapping[str, str],
    ) -> AsyncGenerator[Said, None]:
        """Pieces of thoughts and text, then an `Ending`; `headers`: to be sent beside our own.
        Closing the iterator ends the call. Raises `ChatFailed`."""
        messages = [{"role": turn.role, "content": turn.content} for turn in history]
        if settings.system_prompt:
            messages.insert(0, {"role": "system", "content": settings.system_prompt})
        messages.append({"role": "user", "content": question})
        body: dict[str, Any] = {"messages": messages, "stream": True}
        if settings.model:
            body["model"] = settings.model
        if settings.max_tokens:
            body[self._limit_name] = settings.max_tokens
        waits = aiohttp.ClientTimeout(
            total=None, sock_connect=min(10.0, settings.timeout_s), sock_read=settings.timeout_s
        )
        own = await asyncio.to_thread(_headers, settings)
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        try:
            while True:
                async with self._session.post(
                    _completions(settings.url),
                    json=body,
                    headers={**headers, **own},
                    timeout=waits,
                    allow_redirects=False,
                    read_bufsize=_LONGEST_LINE,
                ) as response:
                    if response.status != 200:
                        refusal = await _refusal(response)
                        if self._called_otherwise(refusal, body):
                            continue
                        raise refusal
                    async for said in tell_thoughts_apart(_read(response, settings)):
                        yield said
                    return
        except TimeoutError as error:
            raise ChatFailed(
                "assistant_timeout",
                f"the language model has sent nothing for {settings.timeout_s:g} s",
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ChatFailed(
                "assistant_failed",
                f"the connection to the language model failed: {in_words(error)}",
            ) from error

    def _called_otherwise(self, refusal: ChatFailed, body: dict[str, Any]) -> bool:
        """Rename the limit of the answer's length in `body` if it was refused by its name."""
        name = next((one for one in _LIMIT_NAMES if one in body), None)
        if name is None or refusal.status not in (400, 422) or name not in refusal.message:
            return False
        if name == _LIMIT_NAMES[-1]:
            return False
        self._limit_name = _LIMIT_NAMES[-1]
        body[self._limit_name] = body.pop(name)
        return True


async def _read(
    response: aiohttp.ClientResponse, settings: AssistantSettings
) -> AsyncIterator[Said]:
    finish, model, received = None, settings.model, 0
    streams = response.content_type == "text/event-stream"
    async for data in _events(response) if streams else _whole(response):
        received += len(data)
        if streams and received > _MOST_ANSWER_BYTES:
            finish = "length"
            break
        try:
            chunk = msgspec.json.decode(data, type=_Chunk)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ChatFailed(
                "assistant_failed", f"the language model's answer cannot be read: {error}"
            ) from error
        if chunk.error is not None:
            raise ChatFailed("assistant_failed", f"the language model: {_words_of(chunk.error)}")
        model = chunk.model or model
        for choice in (chunk.choices or [])[:1]:
            said = choice.delta or choice.message or _Delta()
            thought = said.reasoning_content or said.reasoning
            if isinstance(thought, str) and thought:
                yield Thought(thought)
            if text := said.content or said.refusal:
                yield text
            finish = choice.finish_reason or finish
    if finish is None and streams:
        raise ChatFailed(
            "assistant_failed", "the language model stopped in the middle of its answer"
        )
    yield Ending(_FINISHES.get(finish or "", "stop"), model)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the data of server-sent events before the one that marks the end. Raises
    `ChatFailed`."""
    parts: list[bytes] = []
    while True:
        try:
            line = await response.content.readuntil(b"\n")
        except ValueError as error:
            raise ChatFailed(
                "assistant_failed", "the language model has sent a line that does not end"
            ) from error
        text = line.rstrip(b"\r\n")
        if text.startswith(b"data:"):
            parts.append(text[5:].removeprefix(b" "))
            if sum(map(len, parts)) > _LONGEST_LINE:
                raise ChatFailed(
                    "assistant_failed", "the language model has sent too long an event"
                )
        elif not text and parts:
            data, parts = b"\n".join(parts), []
            if data == b"[DONE]":
                return
            yield data
        if not line:
            if parts and (data := b"\n".join(parts)) != b"[DONE]":
                yield data
            return


async def _whole(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    yield await _all_of(response, _MOST_ANSWER_BYTES)


async def _all_of(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Read to the end, or `most` bytes: one read gives what has come."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > most:
            break
    return bytes(body[:most])


async def _refusal(response: aiohttp.ClientResponse) -> ChatFailed:
    """Return the refusal of the language model's server, in one line."""
    body = await _all_of(response, _LONGEST_ERROR)
    try:
        words = _words_of(msgspec.json.decode(body, type=_Refusal).error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        words = ""
    said = f"the language model's server answered with {response.status}"
    if words:
        said += f": {words}"
    if response.status in (429, 503):
        after = response.headers.get("Retry-After", "")
        retry_s = float(after) if after.isdecimal() else 5.0
        return ChatFailed("assistant_busy", said, min(retry_s, 3600.0))
    return ChatFailed("assistant_failed", said, status=response.status)


def _words_of(error: Any) -> str:
    text = error.get("message", "") if isinstance(error, dict) else error
    return " ".join(str(text or "").split())[:_SHOWN]


def _completions(url: str) -> str:
    url = url.rstrip("/")
    return url if url.endswith("/chat/completions") else f"{url}/chat/completions"


def _headers(settings: AssistantSettings) -> dict[str, str]:
    """Return the headers of a request. The key is read each time, because its file may have
    changed. Raises `ChatFailed`."""
    headers = {"User-Agent": f"modelserver/{__version__}", "Accept": "text/event-stream"}
    if settings.key_file:
        try:
            key = Path(settings.key_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ChatFailed(
                "assistant_failed", "the key for the language model cannot be read"
            ) from error
        headers["Authorization"] = f"Bearer {key}"
    return headers
