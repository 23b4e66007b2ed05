"""Tools around a speech server: capacity planning, error rates, transcription on a Ray cluster.

The server never imports them; the command line finds them by their entry points.
"""
