"""The way in: `modelserver`, or `python -m modelserver`."""

import atexit
import gc
import os
import signal
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _must_be_linux() -> None:
    """Refuse any other system before a module is imported that only Linux has. A wheel cannot: its
    metadata can name no system that it is not for."""
    system = str(sys.platform)
    if system == "linux":
        return
    where = "in WSL (wsl --install)" if system == "win32" else "in a virtual machine"
    raise SystemExit(
        f"Error: modelserver needs Linux, and this is {system}. Install it {where}, "
        "or use its container image (docs/install.md)."
    )


def _trust_no_working_directory() -> None:
    """Import nothing from the directory in which the command is given, in this process and in all
    that it starts with `python -m`: there may be a `models.py` of the user's, or a stranger's."""
    if sys.flags.safe_path or os.path.abspath(sys.path[0]) == _ROOT:
        return
    if sys.argv[0] in ("-m", __file__):  # Python has put the working directory there
        del sys.path[0]
    os.environ["PYTHONSAFEPATH"] = "1"


def _end_at_once(number: int, _: object) -> None:
    """Exit on a signal until the server's own handlers are installed. The first process of a
    container has no default action for these signals and would ignore them."""
    os._exit(128 + number)


_must_be_linux()
_trust_no_working_directory()
signal.signal(signal.SIGTERM, _end_at_once)
if "serve" in sys.argv[1:2]:  # a reload may be asked for before there is anything to reload
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def main() -> None:
    """Run the command."""
    if sys.argv[1:2] == ["ready"]:  # every few seconds, beside a server that needs the memory
        from modelserver import ready

        if (status := ready.main(sys.argv[2:])) is not None:
            raise SystemExit(status)
    # Modules are not garbage: none is looked through while they are imported, nor at exit.
    gc.disable()
    atexit.register(gc.freeze)
    try:
        from modelserver.cli import main as command_line

        command_line()
    except (ImportError, AttributeError) as error:
        from modelserver.own_packages import replaced_packages

        if not (problems := replaced_packages()):
            raise
        raise SystemExit("\n".join(f"Error: {problem}" for problem in problems)) from error


if __name__ == "__main__":
    main()
