"""Notices that a package of ours was replaced by another distribution's of the same name.

The wheel brings three top-level packages. Two have names that others use too: PyPI's `supervisor`
(supervisord) writes its files over ours, and an application's `models.py` may be found first.
"""

import importlib.metadata
import importlib.util
from pathlib import Path

_NAMES = ("models", "supervisor")
_DISTRIBUTION = "modelserver"


def replaced_packages() -> list[str]:
    """Return a sentence for each package of ours that another distribution replaces or whose
    directory it shares, with what to do; an empty list if there is none."""
    ours = Path(__file__).parents[1]
    owners = importlib.metadata.packages_distributions()
    said = []
    for name in _NAMES:
        others = sorted(set(owners.get(name, ())) - {_DISTRIBUTION})
        if others:
            said.append(
                f"the package {name!r} of this environment is also that of "
                f"{' and '.join(others)}, whose files replace ours: pip uninstall "
                f"{' '.join(others)}, then install modelserver again; or install it in an "
                "environment of its own"
            )
            continue
        spec = importlib.util.find_spec(name)
        found = None if spec is None or spec.origin is None else Path(spec.origin)
        if found is None:
            said.append(f"the package {name!r} is missing in {ours}: install modelserver again")
        elif found.parent != ours / name:
            said.append(
                f"{found} is found as {name!r} before the one in {ours / name}: start modelserver "
                "from another directory, and without PYTHONPATH"
            )
    return said
