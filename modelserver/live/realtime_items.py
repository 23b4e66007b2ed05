"""Items of a transcription session of OpenAI's Realtime API, made of a worker's captions.

With turn detection each utterance is an item. Without it, and whatever the client commits, an item
is all that was said up to the commit.
"""

from collections import deque
from dataclasses import dataclass, field

from modelserver.live.realtime_events import (
    Committed,
    Completed,
    Delta,
    EventRefusal,
    Item,
    ItemAdded,
    ItemDone,
    ServerEvent,
    SpeechStarted,
    SpeechStopped,
    Usage,
    failed_event,
    new_id,
)
from modelserver.refusal import Refusal
from modelserver.speech.messages import Caption
from modelserver.speech.transcript import join_texts

_LEAST_COMMIT_S = 0.1
"""Least seconds of audio to commit, as in OpenAI's API."""


@dataclass(slots=True)
class _Item:
    id: str = field(default_factory=lambda: new_id("item"))
    start_s: float = 0.0
    seconds: float = 0.0
    text: str = ""

    def take(self, text: str) -> list[ServerEvent]:
        """Append `text` to the transcript; return the events."""
        if not text:
            return []
        last = self.text[-1:]
        delta = join_texts((last, text))[len(last) :]
        self.text += delta
        return [Delta(item_id=self.id, delta=delta)]

    def completed(self) -> Completed:
        return Completed(item_id=self.id, transcript=self.text, usage=Usage(round(self.seconds, 3)))


class RealtimeItems:
    """The items of one session. Seconds are counted from the session's start."""

    def __init__(self) -> None:
        self.turn_detection = True
        self._open: _Item | None = None
        """The item of the audio that is not committed."""
        self._ending: deque[_Item | None] = deque()
        """What the client has ended, in order: an item, or None for audio that it has cleared. The
        worker answers each with a caption that is `finalized`."""
        self._previous: str | None = None
        self._stream_from_s = 0.0
        """Where the worker's stream began, which counts from 0."""
        self._appended_s = self._buffer_from_s = 0.0

    def appended(self, seconds: float) -> None:
        """Count audio from the client."""
        self._appended_s += seconds

    def stream_ended(self) -> None:
        """Continue after all appended audio was answered; another stream follows."""
        self._stream_from_s = self._appended_s

    # --- the client ends something; a caption that is `finalized` must follow --------------------

    def commit(self) -> list[ServerEvent]:
        """End the item. Raises `EventRefusal`."""
        buffered_s = self._appended_s - self._buffer_from_s
        if buffered_s < _LEAST_COMMIT_S:
            raise EventRefusal(
                "input_audio_buffer_commit_empty",
                f"the buffer has {buffered_s * 1000:.0f} ms of audio; a commit needs "
                f"{_LEAST_COMMIT_S * 1000:.0f} ms",
            )
        item, self._open = self._open or _Item(), None
        item.seconds = buffered_s
        self._buffer_from_s = self._appended_s
        self._ending.append(item)
        return self._committed(item)

    def clear(self) -> bool:
        """Discard the audio that is not committed; returns whether there was any."""
        had_any = self._appended_s > self._buffer_from_s
        self._open, self._buffer_from_s = None, self._appended_s
        if had_any:
            self._ending.append(None)
        return had_any

    # --- the worker answers ---------------------------------------------------------------------

    def caption(self, said: Caption) -> list[ServerEvent]:
        """Return the events of a caption."""
        if self._ending:
            return self._of_ended(said)
        start_s, end_s = self._stream_from_s + said.start, self._stream_from_s + said.end
        if not said.text:
            return []
        if not self.turn_detection:
            if said.kind == "partial":
                return []
            self._open = self._open or _Item()
            return self._open.take(said.text)
        events = self._begin(start_s)
        item = self._open
        if said.kind == "partial" or item is None:
            return events
        self._open = None
        item.seconds = max(end_s - item.start_s, 0.0)
        self._buffer_from_s = max(self._buffer_from_s, min(end_s, self._appended_s))
        events.append(SpeechStopped(item_id=item.id, audio_end_ms=round(end_s * 1000)))
        return [*events, *self._committed(item), *item.take(said.text), item.completed()]

    def _of_ended(self, said: Caption) -> list[ServerEvent]:
        item = self._ending[0]
        events = item.take(said.text) if item is not None and said.kind == "final" else []
        if said.finalized:
            self._ending.popleft()
            if item is not None:
                events.append(item.completed())
        return events

    def _begin(self, start_s: float) -> list[ServerEvent]:
        if self._open is not None:
            return []
        self._open = _Item(start_s=start_s)
        return [SpeechStarted(item_id=self._open.id, audio_start_ms=round(start_s * 1000))]

    def _committed(self, item: _Item) -> list[ServerEvent]:
        before, self._previous = self._previous, item.id
        return [
            Committed(item_id=item.id, previous_item_id=before),
            ItemAdded(item=Item(item.id), previous_item_id=before),
            ItemDone(item=Item(item.id), previous_item_id=before),
        ]

    # --- the end --------------------------------------------------------------------------------

    def finish(self) -> list[ServerEvent]:
        """End the item whose text is known: the server ends the session."""
        item, self._open = self._open, None
        if item is None or not item.text:
            return []
        item.seconds = self._appended_s - self._buffer_from_s
        return [*self._committed(item), item.completed()]

    def fail(self, error: Refusal) -> list[ServerEvent]:
        """Return the events for items that were committed and will have no transcript."""
        failed = [failed_event(item.id, error) for item in self._ending if item is not None]
        self._ending.clear()
        return list(failed)
