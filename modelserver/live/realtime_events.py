"""Events of OpenAI's Realtime API, as far as a transcription session has them.

Source: the types of OpenAI's Python and Node packages (`types/realtime`).
"""

import re
import uuid
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from modelserver.http.decoding import decoded
from modelserver.http.errors import openai_error
from modelserver.refusal import Refusal

_LONGEST_ID = 512
_LONGEST_MESSAGE = 500
"""Most characters of an error message that may repeat what a client has sent."""
_PLACE = re.compile(r" - at `\$\.([^`]*)`")
"""Pattern of the position of a wrong value in messages of msgspec."""


class EventRefusal(Refusal):
    """Refusal of a client's event; the session continues. `param`: the wrong value's path."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(code, message[:_LONGEST_MESSAGE])
        self.param = param


# --- session --------------------------------------------------------------------------------------


class AudioFormat(msgspec.Struct, frozen=True, omit_defaults=True):
    """Samples: `audio/pcm` (16-bit, little-endian, mono), `audio/pcmu` or `audio/pcma`."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
    rate: int | None = None


class TranscriptionOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Model and language; `languages` is used if it names one. `keywords` and names and terms out
    of `prompt` are preferred. Other members are ignored."""

    model: str | None = None
    language: str | None = None
    languages: list[str] | None = None
    prompt: str | None = None
    keywords: list[str] | None = None


class TurnDetection(msgspec.Struct, frozen=True):
    """The server ends items at pauses. `silence_duration_ms`: length of such a pause, 100 to 10000;
    absent, null or 0: the model's own rules. Other members are ignored."""

    type: Literal["server_vad", "semantic_vad"] = "server_vad"
    silence_duration_ms: int | UnsetType | None = UNSET


class InputOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Options of the audio; those that are absent stay as they are."""

    format: AudioFormat | UnsetType | None = UNSET
    transcription: TranscriptionOptions | UnsetType | None = UNSET
    turn_detection: TurnDetection | UnsetType | None = UNSET


class AudioOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """The session's audio."""

    input: InputOptions | UnsetType = UNSET


class SessionOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """A session as a client wants it."""

    type: str = "transcription"
    audio: AudioOptions | UnsetType = UNSET


class InputInEffect(msgspec.Struct):
    """Options of the audio as they are in effect: what is absent or null was ignored."""

    format: AudioFormat
    transcription: TranscriptionOptions
    turn_detection: TurnDetection | None
    noise_reduction: None = None


class AudioInEffect(msgspec.Struct):
    """The session's audio."""

    input: InputInEffect


class Session(msgspec.Struct):
    """A session as it is in effect."""

    id: str
    expires_at: int
    audio: AudioInEffect
    type: str = "transcription"
    object: str = "realtime.transcription_session"
    include: None = None


# --- from the client ------------------------------------------------------------------------------


class _FromClient(msgspec.Struct, tag_field="type", omit_defaults=True):
    event_id: str | None = None


class SessionUpdate(_FromClient, kw_only=True, tag="session.update"):
    """Change the session; options that are absent stay as they are."""

    session: SessionOptions


class Append(_FromClient, kw_only=True, tag="input_audio_buffer.append"):
    """Audio, in base64."""

    audio: bytes


class Commit(_FromClient, tag="input_audio_buffer.commit"):
    """End the item: the audio since the last item is transcribed."""


class Clear(_FromClient, tag="input_audio_buffer.clear"):
    """Discard the audio since the last item."""


ClientEvent = SessionUpdate | Append | Commit | Clear
_TYPES = tuple(str(kind.__struct_config__.tag) for kind in (SessionUpdate, Append, Commit, Clear))


class _Envelope(msgspec.Struct):
    type: str = ""
    event_id: str | None = None


def _envelope(text: str) -> _Envelope | None:
    try:
        return decoded(text, _Envelope)
    except Refusal:
        return None


def id_of(text: str) -> str | None:
    """Return a client event's id, if it has one of a length that can be repeated."""
    given = _envelope(text)
    if given is None or given.event_id is None or len(given.event_id) > _LONGEST_ID:
        return None
    return given.event_id


def client_event(text: str) -> ClientEvent:
    """Decode a client's event. Raises `EventRefusal`."""
    try:
        return decoded(text, ClientEvent)  # type: ignore[arg-type]
    except Refusal as refused:
        place = _PLACE.search(refused.message)
        param = place[1] if place else None
        if param == "type" and (given := _envelope(text)) is not None:
            raise _unknown_type(given.type) from None
        raise EventRefusal(refused.code, refused.message, param) from None


def _unknown_type(given: str) -> EventRefusal:
    if given.startswith(("response.", "conversation.", "output_audio_buffer.")):
        why = f"{given[:60]} is not available: a transcription session has no responses"
    elif given == "transcription_session.update":
        why = 'send session.update with "type": "transcription" in its session'
    else:
        why = f"the type {given[:60]!r} is not known"
    return EventRefusal("bad_request", f"{why}; allowed: {', '.join(_TYPES)}", "type")


# --- from the server ------------------------------------------------------------------------------


def new_id(kind: str) -> str:
    """Return a new id of a session, an item or an event."""
    return f"{kind}_{uuid.uuid4().hex[:24]}"


class _FromServer(msgspec.Struct, tag_field="type", kw_only=True):
    event_id: str = msgspec.field(default_factory=lambda: new_id("event"))


class SessionCreated(_FromServer, tag="session.created"):
    """The first event."""

    session: Session


class SessionUpdated(_FromServer, tag="session.updated"):
    """The answer to `session.update`."""

    session: Session


class SpeechStarted(_FromServer, tag="input_audio_buffer.speech_started"):
    """Start of speech, with `server_vad`. `audio_start_ms`: where the item begins, since the
    session's start."""

    item_id: str
    audio_start_ms: int


class SpeechStopped(_FromServer, tag="input_audio_buffer.speech_stopped"):
    """End of the utterance, with `server_vad`."""

    item_id: str
    audio_end_ms: int


class Committed(_FromServer, tag="input_audio_buffer.committed"):
    """The audio is an item now."""

    item_id: str
    previous_item_id: str | None


class Cleared(_FromServer, tag="input_audio_buffer.cleared"):
    """The answer to `input_audio_buffer.clear`."""


class ItemContent(msgspec.Struct):
    """Audio; its transcript follows in events of its own."""

    type: str = "input_audio"
    transcript: None = None


class Item(msgspec.Struct):
    """A user's message."""

    id: str
    content: list[ItemContent] = msgspec.field(default_factory=lambda: [ItemContent()])
    type: str = "message"
    object: str = "realtime.item"
    status: str = "completed"
    role: str = "user"


class ItemAdded(_FromServer, tag="conversation.item.added"):
    """New item of the conversation."""

    item: Item
    previous_item_id: str | None


class ItemDone(_FromServer, tag="conversation.item.done"):
    """The item will not change."""

    item: Item
    previous_item_id: str | None


class Delta(_FromServer, tag="conversation.item.input_audio_transcription.delta"):
    """New part of the item's transcript, which will not change; with turn detection off it may come
    before the commit."""

    item_id: str
    delta: str
    content_index: int = 0


class Usage(msgspec.Struct):
    """Length of an item's audio."""

    seconds: float
    type: str = "duration"


class Completed(_FromServer, tag="conversation.item.input_audio_transcription.completed"):
    """The item's whole transcript."""

    item_id: str
    transcript: str
    usage: Usage
    content_index: int = 0


class ErrorDetails(msgspec.Struct):
    """Type, code and message; `event_id` of the client's event, `param`: its wrong value."""

    type: str
    code: str
    message: str
    param: str | None = None
    event_id: str | None = None


class ItemError(msgspec.Struct):
    """The reason why an item has no transcript."""

    type: str
    code: str
    message: str
    param: str | None = None


class Failed(_FromServer, tag="conversation.item.input_audio_transcription.failed"):
    """The item has no transcript."""

    item_id: str
    error: ItemError
    content_index: int = 0


class ErrorEvent(_FromServer, tag="error"):
    """Error. The session continues, or the socket is closed next."""

    error: ErrorDetails


FROM_CLIENT = (SessionUpdate, Append, Commit, Clear)
FROM_SERVER = (
    SessionCreated, SessionUpdated, SpeechStarted, SpeechStopped, Committed, Cleared, ItemAdded,
    ItemDone, Delta, Completed, Failed, ErrorEvent,
)  # fmt: skip
ServerEvent = (
    SessionCreated
    | SessionUpdated
    | SpeechStarted
    | SpeechStopped
    | Committed
    | Cleared
    | ItemAdded
    | ItemDone
    | Delta
    | Completed
    | Failed
    | ErrorEvent
)


def error_event(error: Refusal, event_id: str | None = None) -> ErrorEvent:
    """Return the event for what is wrong with a client's event, or with the session."""
    if isinstance(error, EventRefusal):
        kind, param = "invalid_request_error", error.param
    else:
        said = openai_error(error).error
        kind, param = said.type, said.param
    return ErrorEvent(error=ErrorDetails(kind, error.code, error.message, param, event_id))


def failed_event(item_id: str, error: Refusal) -> Failed:
    """Return the event for an item that has no transcript."""
    said = openai_error(error).error
    return Failed(item_id=item_id, error=ItemError(said.type, said.code, said.message))
