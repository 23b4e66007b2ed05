"""Options of a transcription session of OpenAI's Realtime API."""

from dataclasses import dataclass, replace

from msgspec import UNSET

from modelserver.audio.formats import RawFormat
from modelserver.live.realtime_events import (
    AudioFormat,
    AudioInEffect,
    AudioOptions,
    EventRefusal,
    InputInEffect,
    InputOptions,
    Session,
    SessionOptions,
    TranscriptionOptions,
    TurnDetection,
)
from modelserver.refusal import Refusal
from modelserver.request.endpoints import read_endpoint_ms
from modelserver.request.openai_models import openai_model, openai_name
from modelserver.request.parameters import read_language
from modelserver.serving.registry import ModelRegistry
from modelserver.serving.served import ServedModel
from modelserver.speech.messages import CaptionRequest
from modelserver.speech.phrases import keyword_list, usable_keywords
from modelserver.speech.prompt import keywords_of

_PCM_RATES = range(8000, 48_001)
_PCM_RATE = 24_000
_PCM = AudioFormat("audio/pcm", _PCM_RATE)
_TELEPHONE = {"audio/pcmu": "mulaw", "audio/pcma": "alaw"}
_TELEPHONE_RATE = 8000
_INPUT = "session.audio.input"
_LONGEST_PROMPT = 4000
"""Length in letters."""


@dataclass(frozen=True, slots=True)
class RealtimeOptions:
    """A session's options, all of them valid."""

    served: ServedModel
    model: str | None = None
    """Name of the model as the client gives it."""
    language: str | None = None
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    format: AudioFormat = _PCM
    turn_detection: bool = True
    endpoint_ms: int = 0
    """Silence that ends an item; 0: the model's own rules."""

    @property
    def raw(self) -> RawFormat:
        """The form of the samples."""
        if (encoding := _TELEPHONE.get(self.format.type)) is not None:
            return RawFormat(encoding, _TELEPHONE_RATE)
        return RawFormat("s16le", self.format.rate or _PCM_RATE)

    def request(self) -> CaptionRequest:
        """Return the options as a worker takes them."""
        return CaptionRequest(
            raw=self.raw,
            partials=self.turn_detection,
            language=self.language or "",
            endpoint_ms=self.endpoint_ms,
            keywords=usable_keywords([*self.keywords, *keywords_of(self.prompt)]),
        )

    def needs_new_stream(self, before: "RealtimeOptions") -> bool:
        """Return whether a stream that began with the options `before` has to be replaced."""
        return self.served is not before.served or self.request() != before.request()

    def updated(self, wanted: SessionOptions, models: ModelRegistry) -> "RealtimeOptions":
        """Return the options after `session.update`. Raises `EventRefusal`."""
        if wanted.type != "transcription":
            raise EventRefusal(
                "bad_parameter",
                f"{wanted.type[:40]!r} is not a type of session here; allowed: transcription",
                "session.type",
            )
        options = self
        if wanted.audio is UNSET or wanted.audio.input is UNSET:
            return options
        given = wanted.audio.input
        if given.format is not UNSET:
            options = replace(options, format=_checked(given.format))
        if given.turn_detection is not UNSET:
            options = _with_detection(options, given.turn_detection)
        if given.transcription is not UNSET:
            options = _with_model(options, given.transcription or TranscriptionOptions(), models)
        return options

    def session(self, session_id: str, expires_at: int) -> Session:
        """Return the session's description for clients."""
        return Session(
            session_id,
            expires_at,
            AudioInEffect(
                InputInEffect(
                    self.format,
                    self._transcription(
                        openai_name(self.served), self.language or self.served.language or None
                    ),
                    self._detection,
                )
            ),
        )

    def _transcription(self, model: str | None, language: str | None) -> TranscriptionOptions:
        return TranscriptionOptions(
            model, language, prompt=self.prompt or None, keywords=list(self.keywords) or None
        )

    def wanted(self) -> SessionOptions:
        """Return the options as `session.update` would have them."""
        from_client = self._transcription(self.model, self.language)
        return SessionOptions(
            audio=AudioOptions(InputOptions(self.format, from_client, self._detection))
        )

    @property
    def _detection(self) -> TurnDetection | None:
        if not self.turn_detection:
            return None
        return TurnDetection(silence_duration_ms=self.endpoint_ms or UNSET)


def first_options(models: ModelRegistry, model: str | None) -> RealtimeOptions:
    """Return the options of a session that names a model or none. Raises `Refusal`."""
    served, _ = openai_model(models, model, None)
    return RealtimeOptions(served, model)


def _checked(given: AudioFormat | None) -> AudioFormat:
    if given is None:
        return _PCM
    if given.type in _TELEPHONE:
        if given.rate not in (None, _TELEPHONE_RATE):
            raise _bad("format.rate", f"{given.rate} is not a rate of {given.type}; allowed: 8000")
        return AudioFormat(given.type)
    rate = _PCM_RATE if given.rate is None else given.rate
    if rate not in _PCM_RATES:
        raise _bad("format.rate", f"{rate} is not allowed: from 8000 to 48000 samples a second")
    return AudioFormat(given.type, rate)


def _with_detection(options: RealtimeOptions, given: TurnDetection | None) -> RealtimeOptions:
    """Return the options with this turn detection; a pause that is absent is the model's own."""
    if given is None:
        return replace(options, turn_detection=False, endpoint_ms=0)
    name = "silence_duration_ms"
    try:
        endpoint_ms = read_endpoint_ms(given.silence_duration_ms or 0, name)
    except Refusal as refused:
        raise _bad(f"turn_detection.{name}", refused.message) from None
    return replace(options, turn_detection=True, endpoint_ms=endpoint_ms)


def _with_model(
    options: RealtimeOptions, given: TranscriptionOptions, models: ModelRegistry
) -> RealtimeOptions:
    """Apply model and languages. An absent member keeps its value, as everywhere in a session."""
    model = options.model if given.model is None else given.model
    said = given.language
    if said is None and given.languages is not None and len(given.languages) == 1:
        said = given.languages[0]
    try:
        language = options.language if said is None else read_language(said)
    except Refusal as refused:
        raise _bad("transcription.language", refused.message) from None
    try:
        served, _ = openai_model(models, model, language)
    except Refusal as refused:
        place = f"{_INPUT}.transcription.model"
        raise EventRefusal(refused.code, refused.message, place) from None
    options = replace(options, served=served, model=model, language=language)
    if given.prompt is not None:
        if len(given.prompt) > _LONGEST_PROMPT:
            raise _bad("transcription.prompt", f"{_LONGEST_PROMPT} letters are allowed")
        options = replace(options, prompt=given.prompt)
    if given.keywords is not None:
        try:
            options = replace(options, keywords=keyword_list(given.keywords))
        except Refusal as refused:
            raise _bad("transcription.keywords", refused.message) from None
    return options


def _bad(where: str, message: str) -> EventRefusal:
    return EventRefusal("bad_parameter", message, f"{_INPUT}.{where}")
