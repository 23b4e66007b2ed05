"""Instructions to install an extra of this package, depending on how it is installed."""

import shlex
import sys


def how_to_install(extra: str) -> str:
    """Return the command that installs `extra` into the environment that runs this.

    The plain `pip install modelserver[...]` would ask a package index for the name, from any
    environment.
    """
    return f"{shlex.quote(sys.executable)} -m pip install 'modelserver[{extra}]'"


def how_to_install_tools(extra: str = "") -> str:
    """Return the end of a sentence: how to install this repository's second distribution."""
    what = shlex.quote(f"./tools[{extra}]") if extra else "./tools"
    python = shlex.quote(sys.executable)
    return f"modelserver-tools: in a checkout of modelserver, run {python} -m pip install {what}"
