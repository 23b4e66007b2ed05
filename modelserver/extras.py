"""Instructions to install this repository's second distribution beside this one."""

import shlex
import sys
from pathlib import Path

from models.extras import NOTE, package_installer


def how_to_install_tools(extra: str = "") -> str:
    """Return the end of a sentence: how to install modelserver-tools."""
    what = shlex.quote(f"./tools[{extra}]") if extra else "./tools"
    if (Path(sys.prefix) / NOTE).is_file():
        own = f"python3 -m venv tools-env && tools-env/bin/pip install . {what}"
        return f"modelserver-tools: in a checkout of modelserver, run {own}"
    return f"modelserver-tools: in a checkout of modelserver, run {package_installer()} {what}"
