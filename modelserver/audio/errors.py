"""Errors for audio that cannot be recognised, with stable codes."""

from modelserver.refusal import Refusal


class AudioError(Refusal):
    """The audio is refused."""


def not_audio(why: str) -> AudioError:
    """Return the error for bytes that are not an audio file."""
    return AudioError("not_audio", why)


def unsupported(what: str) -> AudioError:
    """Return the error for audio of an unsupported kind."""
    return AudioError("unsupported_audio", what)


def too_long(duration_s: float, longest_s: float) -> AudioError:
    """Return the error for audio that is longer than allowed."""
    message = (
        f"the audio lasts {duration_s:.1f} s or more; {longest_s:g} s are allowed "
        "(limits.audio_s): cut it into pieces"
    )
    return AudioError("audio_too_long", message)
