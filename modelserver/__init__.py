"""A speech recognition server: HTTP API, live streams, jobs, settings and command line."""

__version__ = "0.2.0"
