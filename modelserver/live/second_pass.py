"""A second recognition of a live stream, with the profile "accurate" or by another model.

The second pass goes along with the first, a stream in the background on whatever worker has nothing
else to do, and ends its utterances where the first did: so little is left to do when one has ended.
Where no worker has the time it leaves utterances out, and the first pass never waits for it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog

from modelserver.serving import background
from modelserver.serving.served import ServedModel
from modelserver.speech.messages import Caption, CaptionRequest, UtteranceAudio
from modelserver.speech.transcript import join_texts
from supervisor import PoolError, Stream

log: structlog.stdlib.BoundLogger = structlog.get_logger("streams")

_MOST_BEHIND_S = 15.0
"""Seconds of audio that wait for it; where there are more, it leaves out what was said."""
_LAST_S = 5.0
"""Seconds for which the stream's end waits for the second pass."""


class SecondPass:
    """Use as `async with`. `recognise_again` and `ended` take the first pass's answers in order."""

    def __init__(
        self,
        served: ServedModel,
        asked: CaptionRequest,
        tell: Callable[[Caption], Awaitable[None]],
        *,
        patience_s: float,
        request_id: str | None = None,
    ) -> None:
        """Recognise utterances a second time. `served` is loaded first if that is done on demand,
        which may take `patience_s`. `asked`: the request of the first pass; `tell`: receives, for
        each utterance, a final caption with the number of the first pass's."""
        self._served, self._asked, self._tell = served, asked, tell
        self._patience_s, self._request_id = patience_s, request_id
        self._waiting: asyncio.Queue[UtteranceAudio | float | Caption | None] = asyncio.Queue()
        """Audio, or the seconds of it that are left out; and where an utterance ended."""
        self._behind_s = 0.0
        self._fed_s = self._came_s = 0.0
        self._left_out = False
        self._following: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "SecondPass":
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._following is not None
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)

    def recognise_again(self, audio: UtteranceAudio) -> None:
        """Take audio that the first pass has recognised."""
        seconds = _seconds(audio)
        self._behind_s += seconds
        self._wait_for(seconds if self._behind_s > _MOST_BEHIND_S else audio)

    def ended(self, final: Caption) -> None:
        """Take note that the first pass has ended an utterance."""
        self._wait_for(final)

    def _wait_for(self, what: UtteranceAudio | float | Caption) -> None:
        if self._following is not None and not self._following.done():
            self._waiting.put_nowait(what)

    async def finish(self) -> None:
        """Wait for the last of them, for a while."""
        assert self._following is not None
        self._waiting.put_nowait(None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_S):
                await asyncio.shield(self._following)

    async def _follow(self) -> None:
        try:
            with self._served.used():
                pool = await self._served.ready(self._patience_s)
                with pool.background_stream(request_id=self._request_id) as stream:
                    while (what := await self._waiting.get()) is not None:
                        if isinstance(what, Caption):
                            await self._revise(stream, what)
                        else:
                            await self._feed(stream, what)
        except PoolError as error:
            log.warning(
                "second_pass.ended",
                model=self._served.label,
                reason=error.message,
                request_id=self._request_id,
            )

    async def _feed(self, stream: Stream, audio: UtteranceAudio | float) -> None:
        seconds = audio if isinstance(audio, float) else _seconds(audio)
        self._came_s += seconds
        self._behind_s -= seconds
        if isinstance(audio, float) or self._left_out:
            self._left_out = True
            return
        if not stream.begun:
            asked = self._served.keywords.added_to(self._asked)
            background.begin(stream, audio.rate, asked, "accurate")
        self._fed_s += seconds
        await stream.send(audio.pcm, seconds)

    async def _revise(self, stream: Stream, final: Caption) -> None:
        if not stream.begun:
            return
        captions = await background.end_utterance(stream)
        if self._left_out:
            self._left_out = False  # a part of it was not recognised
            return
        await self._tell(self._revised(final, captions))

    def _revised(self, final: Caption, captions: list[Caption]) -> Caption:
        """Return one caption for all that was recognised until the first pass found an end."""
        said = [caption for caption in captions if caption.text]
        add_s = self._came_s - self._fed_s
        words = [word for caption in said for word in background.words_later(caption, add_s)]
        alone = said[0].alternatives if len(said) == 1 else None
        return msgspec.structs.replace(
            final,
            text=join_texts(caption.text for caption in said),
            start=round(said[0].start + add_s, 2) if said else final.start,
            end=round(said[-1].end + add_s, 2) if said else final.end,
            words=words if self._asked.words and (words or not said) else None,
            alternatives=alone,
            language=said[0].language if said else None,
        )


def _seconds(audio: UtteranceAudio) -> float:
    return len(audio.pcm) / 2 / audio.rate


def is_utterance_audio(answer: dict[str, Any]) -> bool:
    """Return whether a worker's answer is `UtteranceAudio`, rather than a caption."""
    return "pcm" in answer
