"""The end of a server: announced first, then requests are refused, then waited for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from modelserver.serving.registry import ModelRegistry
from supervisor import Draining

ENDING = "the server is shutting down"
_LAST_ANSWERS_S = 1.0


class Drain:
    """Ends the admission of requests, and what was admitted."""

    def __init__(self, models: ModelRegistry, notice_s: Callable[[], float]) -> None:
        """Drain `models`. `notice_s`: returns the seconds between the announcement and the first
        refusal."""
        self._models, self._notice_s = models, notice_s
        self._refusing = ""  # or why
        self._announced = ""
        self._notice: asyncio.TimerHandle | None = None
        self._uploads: set[asyncio.Timeout] = set()

    @property
    def reason(self) -> str:
        """Reason why no new requests are taken, or soon will not be; empty while they are."""
        return self._announced

    def must_admit(self) -> None:
        """Raise `supervisor.Draining` where no new requests are taken."""
        if self._refusing:
            raise Draining(self._refusing)

    def announce(self) -> None:
        """Tell gateways that this process ends. Nothing is refused: another process serves what
        comes."""
        self._forget_notice()
        self._announced = ENDING

    def stop_admitting(self, reason: str = ENDING) -> float:
        """Refuse new requests, `notice_s` from now (which is returned); admitted ones continue, and
        those that wait for a model get it."""
        notice_s = self._notice_s()
        if not notice_s:
            self.refuse(self._refusing or reason)
        elif not self._announced or reason == ENDING:
            self._announced = reason
            loop = asyncio.get_running_loop()
            self._forget_notice()
            self._notice = loop.call_later(notice_s, self.refuse, reason)
        return notice_s

    def refuse(self, reason: str = ENDING) -> None:
        """Take no new requests from now on."""
        self._forget_notice()
        self._announced = self._refusing = reason

    def resume(self) -> bool:
        """Take requests again after an operator's `stop_admitting`; False where the server ends."""
        if self._announced == ENDING:
            return False
        self._forget_notice()
        self._announced = self._refusing = ""
        return True

    def _forget_notice(self) -> None:
        if self._notice is not None:
            self._notice.cancel()
            self._notice = None

    @contextlib.asynccontextmanager
    async def uploading(self) -> AsyncIterator[None]:
        """Around the receiving of a body, which `end_uploads` cuts off. Raises
        `supervisor.Draining`."""
        timeout = asyncio.timeout(None)
        self._uploads.add(timeout)
        try:
            async with timeout:
                yield
        except TimeoutError:
            if timeout.expired():
                raise Draining(
                    "the server is shutting down, and the upload was not whole"
                ) from None
            raise
        finally:
            self._uploads.discard(timeout)

    async def end_uploads(self) -> None:
        """Cut off bodies that are still being received, and wait a moment for the refusals to be
        sent."""
        if not self._uploads:
            return
        for timeout in list(self._uploads):
            timeout.reschedule(asyncio.get_running_loop().time())
        await self._unused(_LAST_ANSWERS_S)

    def end_streams(self) -> None:
        """Send every open stream its last result, and close it."""
        for served in self._models.all_served():
            if served.pool is not None:
                served.pool.end_streams()

    async def finish(self, timeout_s: float) -> bool:
        """Take no new requests, and wait for those inside; True if all were done in time."""
        self.refuse()
        self.end_streams()
        return await self._unused(timeout_s)

    async def _unused(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                for served in self._models.all_served():
                    await served.out_of_use()
        except TimeoutError:
            return False
        return True
