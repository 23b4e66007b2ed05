"""Transcription of many files by one engine: this machine's own pool, or a server."""
