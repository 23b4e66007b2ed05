"""Which engines are installed, and how to get one that is not."""

import functools
import importlib.util
import platform

_MODULES = {"vosk": "vosk", "onnx": "sherpa_onnx"}
_INSTALL = {
    "vosk": "pip install vosk",
    "onnx": 'install the extra onnx (pip install "modelserver[onnx]")',
}
_PROCESSORS = ("x86_64", "aarch64")
"""For which packages of all engines are published."""


@functools.cache
def missing(engine: str) -> str | None:
    """Return what has to be installed before the engine can load anything, with the command; None
    if nothing has."""
    if importlib.util.find_spec(_MODULES[engine]) is not None:
        return None
    return f"the package {_MODULES[engine]} is not installed: {_INSTALL[engine]}"


def obtainable(engine: str) -> bool:
    """Return whether the engine is installed, or can be on this machine."""
    return missing(engine) is None or platform.machine() in _PROCESSORS
