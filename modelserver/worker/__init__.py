"""Code that runs only in worker processes: decoding audio, recognising it, writing its text.

Nothing outside this package imports from it: FFmpeg and the engine stay out of the supervisor.
"""
