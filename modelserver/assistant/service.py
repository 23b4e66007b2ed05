"""Questions to the language model: limits for each client, and the part of a conversation that is
sent."""

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing

from opentelemetry.trace import SpanKind

from modelserver.access.gate import NotAllowed
from modelserver.assistant.chat import Chat, ChatFailed, Turn
from modelserver.assistant.ending import Ending
from modelserver.assistant.limits import QuestionLimits
from modelserver.assistant.thoughts import Said
from modelserver.settings import AssistantSettings
from modelserver.tracing import fail, start_span, trace_headers


class Assistant:
    """Use as `async with`."""

    def __init__(self, settings: Callable[[], AssistantSettings]) -> None:
        """Answer by the settings that `settings` returns, which may change."""
        self._settings = settings
        self._chat = Chat()
        self._limits = QuestionLimits()

    async def __aenter__(self) -> "Assistant":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._chat.close()

    @property
    def there(self) -> bool:
        """True if the settings name a language model."""
        return bool(self._settings().url)

    @contextlib.contextmanager
    def asking(self, who: str) -> Iterator[None]:
        """Count one question of client `who` while the context is open. Raises `ChatFailed` if no
        language model is set, or `NotAllowed` if the client has reached its limit."""
        settings, now = self._settings(), time.monotonic()
        if not settings.url:
            raise ChatFailed(
                "assistant_missing", "this server has no language model (setting assistant.url)"
            )
        refusal = self._limits.refusal(who, settings.at_once, settings.per_minute, now)
        if refusal is not None:
            reason, wait_s = refusal
            raise NotAllowed("rate_limited", reason, wait_s)
        self._limits.begins(who, now)
        try:
            yield
        finally:
            self._limits.ends(who)

    async def answer(self, history: list[Turn], question: str) -> AsyncGenerator[Said, None]:
        """Pieces of thoughts and text, then an `Ending`. Closing the iterator ends the call. Raises
        `ChatFailed`."""
        settings = self._settings()
        recent = history[-2 * settings.history_turns :] if settings.history_turns else []
        chat = start_span("chat", SpanKind.CLIENT, attributes={"gen_ai.operation.name": "chat"})
        if settings.model:
            chat.set_attribute("gen_ai.request.model", settings.model)
        headers = trace_headers(chat)
        try:
            async with aclosing(self._chat.answer(settings, recent, question, headers)) as answer:
                async for said in answer:
                    if isinstance(said, Ending) and said.model is not None:
                        chat.set_attribute("gen_ai.response.model", said.model)
                    yield said
        except ChatFailed as error:
            fail(chat, error.code, error.message)
            raise
        finally:
            chat.end()
