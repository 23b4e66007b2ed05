"""What an engine cannot do."""


class EngineUnusable(Exception):
    """Nothing can be transcribed by it; the text says why."""


class NotTranscribed(Exception):
    """This file cannot be; the text says why."""
