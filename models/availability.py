"""Which engines are installed, and how to get one that is not."""

import functools
import importlib.util
import platform

_MODULES = {"vosk": "vosk", "onnx": "sherpa_onnx"}
_INSTALL = {"vosk": "pip install vosk", "onnx": "pip install sherpa-onnx"}
_PROCESSORS = ("x86_64", "aarch64")
"""For which packages of all engines are published."""


@functools.cache
def missing(engine: str) -> str | None:
    """Return the command that installs the engine; None if it is installed."""
    there = importlib.util.find_spec(_MODULES[engine]) is not None
    return None if there else _INSTALL[engine]


def obtainable(engine: str) -> bool:
    """Return whether the engine is installed, or can be on this machine."""
    return missing(engine) is None or platform.machine() in _PROCESSORS
