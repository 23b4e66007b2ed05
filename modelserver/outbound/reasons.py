"""Reasons why another server could not be reached, or broke off, in words."""

import os

import aiohttp


def in_words(error: BaseException) -> str:
    """Return the reason of an exception of aiohttp or a socket, such as "Connection refused",
    without the internals of the library."""
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(
        error, aiohttp.ClientSSLError
    ):
        number = error.errno or 0
        known = os.strerror(number) if number > 0 else error.strerror  # a name: no errno of its own
        return known or str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
