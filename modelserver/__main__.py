"""The way in: `modelserver`, or `python -m modelserver`."""

import os
import signal
import sys


def _end_at_once(number: int, _: object) -> None:
    """Until the server's own handlers are there. The first process of a container has no default
    action of its own for these, and would not hear them."""
    os._exit(128 + number)


signal.signal(signal.SIGTERM, _end_at_once)
if "serve" in sys.argv[1:2]:  # a reload may be asked for before there is anything to reload
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

from modelserver.cli import main  # noqa: E402 - what is above must not wait for the imports

if __name__ == "__main__":
    main()
