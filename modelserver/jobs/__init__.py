"""Recordings that are transcribed when there is time, and whose transcripts wait to be fetched: a
database and a directory that outlive the server, and what works through them."""
