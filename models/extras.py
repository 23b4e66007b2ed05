"""Optional dependencies (extras): the command that adds one to the installation that runs.

pip is right in a virtual environment only. A Debian package and a container image have no pip, and
packages that pip adds to the environment of `make install` are gone after its next run: the maker
of such an installation leaves the way to add an extra in a file, with `{extra}` for its name.
"""

import importlib.util
import shlex
import sys
from pathlib import Path

NOTE = Path("share", "modelserver", "how-to-add-extras")
"""Path of that file, below the environment's directory."""


def how_to_install(extra: str) -> str:
    """Return the command that adds `extra` to the installation that runs.

    `pip install modelserver[...]` without an interpreter would ask a package index for the name,
    from any environment.
    """
    note = Path(sys.prefix) / NOTE
    if note.is_file():
        return note.read_text(encoding="utf-8").strip().replace("{extra}", extra)
    return f"{package_installer()} {shlex.quote(f'modelserver[{extra}]')}"


def package_installer() -> str:
    """Return the command that installs packages into the environment that runs, up to their names.

    uv makes environments without pip, and so does pipx where it finds uv.
    """
    environment = Path(sys.prefix)
    if (environment / "pipx_metadata.json").is_file():
        return f"pipx runpip {shlex.quote(environment.name)} install"
    python = shlex.quote(sys.executable)
    if importlib.util.find_spec("pip") is None:
        return f"uv pip install --python {python}"
    return f"{python} -m pip install"
