"""Errors of engines."""


class EngineUnusable(Exception):
    """The engine can transcribe nothing; the text says why."""


class NotTranscribed(Exception):
    """A file cannot be transcribed; the text says why."""
