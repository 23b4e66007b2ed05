"""A speech recognition server: HTTP API, live streams, jobs, settings and command line."""

__version__ = "0.1.0"
