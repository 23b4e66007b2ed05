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


def main() -> None:
    """Run the command."""
    if sys.argv[1:2] == ["ready"]:  # every few seconds, beside a server that needs the memory
        from modelserver import ready

        if (status := ready.main(sys.argv[2:])) is not None:
            raise SystemExit(status)
    try:
        from modelserver.cli import main as command_line
    except (ImportError, AttributeError) as error:
        from modelserver.own_packages import replaced_packages

        if not (problems := replaced_packages()):
            raise
        raise SystemExit("\n".join(f"Error: {problem}" for problem in problems)) from error
    command_line()


if __name__ == "__main__":
    main()
