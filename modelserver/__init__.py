"""Who is served: settings, the HTTP application, audio, transcripts and the command line."""

__version__ = "0.1.0"
