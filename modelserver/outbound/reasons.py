"""Reasons why another server could not be reached, or broke off, in words."""

import os

import aiohttp


def in_words(error: BaseException) -> str:
    """Of what aiohttp or a socket raises: "Connection refused", not where in which library."""
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(
        error, aiohttp.ClientSSLError
    ):
        number = error.errno or 0
        known = os.strerror(number) if number > 0 else error.strerror  # a name: no errno of its own
        return known or str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
