"""ONNX Runtime as sherpa-onnx bundles it, called through its C interface.

The Python package of ONNX Runtime starts threads, is another build, and another 20 MB. Positions in
the table of functions never change (onnxruntime_c_api.h: functions are added at the end only).
"""

import ctypes
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.contract import ModelError
from models.processor import processor_flags

_API_VERSION = 16
"""Version of the table that has all functions that are called; later libraries keep it."""
_GET_MESSAGE, _RELEASE_STATUS = 2, 93
_CREATE_ENV, _CREATE_SESSION, _CREATE_OPTIONS = 3, 7, 10
_SET_OPTIMISED_PATH, _DISABLE_PATTERN, _DISABLE_ARENA = 11, 17, 19
_SET_OPTIMISATION, _SET_THREADS, _ADD_CONFIG_ENTRY = 23, 24, 130
_RELEASE_SESSION, _RELEASE_OPTIONS = 95, 100
_ERRORS, _ALL_OPTIMISATIONS = 3, 99

_LAYOUT_FLAGS = ("avx", "amx", "fma", "asimd", "i8mm", "sve", "bf16")
"""Beginnings of the processor flags by which ONNX Runtime chooses how it lays weights out."""

Pointer = ctypes.c_void_p


def file_of(package: str, name: str) -> Path:
    """Return a file inside an installed package. Raises `ModelError`, code `engine_missing`."""
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder) / name).is_file():
            return file
    raise ModelError(
        "engine_missing", f"{package} is not installed, or not whole: pip install modelserver[onnx]"
    )


def library_file() -> Path:
    """Return the library. Raises `ModelError`, code `engine_missing`."""
    return file_of("sherpa_onnx", "lib/libonnxruntime.so")


def weights_layout() -> str:
    """Return the processor's flags that decide how weights are laid out, in order."""
    return " ".join(sorted(flag for flag in processor_flags() if flag.startswith(_LAYOUT_FLAGS)))


class Runtime:
    """The library's table of functions."""

    def __init__(self) -> None:
        """Load the library. Raises `ModelError`, code `engine_missing`."""
        try:
            library = ctypes.CDLL(str(library_file()))
        except OSError as error:
            raise ModelError("engine_missing", str(error)) from error
        library.OrtGetApiBase.restype = ctypes.POINTER(Pointer * 2)
        get_api = ctypes.CFUNCTYPE(Pointer, ctypes.c_uint32)(library.OrtGetApiBase().contents[0])
        if (table := get_api(_API_VERSION)) is None:
            raise ModelError("engine_missing", "ONNX Runtime has another interface than expected")
        self._table = ctypes.cast(table, ctypes.POINTER(Pointer))

    def function(self, position: int, *types: Any) -> Any:
        """Return a function that raises `ModelError` where its status is not success."""
        called = ctypes.CFUNCTYPE(Pointer, *types)(self._table[position])
        message = ctypes.CFUNCTYPE(ctypes.c_char_p, Pointer)(self._table[_GET_MESSAGE])
        release = ctypes.CFUNCTYPE(None, Pointer)(self._table[_RELEASE_STATUS])

        def checked(*arguments: Any) -> None:
            status = called(*arguments)
            if status:
                text = message(status).decode("utf-8", "replace").strip()
                release(status)
                raise ModelError("engine_failed", f"ONNX Runtime: {text}")

        return checked

    def made(self, position: int, *arguments: tuple[Any, Any]) -> Any:
        """Return what a function makes, whose last argument is where to put it. `arguments`: type
        and value of the others."""
        handle = Pointer()
        types = [kind for kind, _ in arguments]
        values = [value for _, value in arguments]
        self.function(position, *types, Pointer)(*values, ctypes.byref(handle))
        return handle

    def options(self) -> Any:
        """Return session options: one thread, and no memory that is kept for later."""
        options = self.made(_CREATE_OPTIONS)
        self.function(_SET_THREADS, Pointer, ctypes.c_int)(options, 1)
        self.function(_DISABLE_PATTERN, Pointer)(options)
        self.function(_DISABLE_ARENA, Pointer)(options)
        return options

    @functools.cached_property
    def _environment(self) -> Any:
        return self.made(_CREATE_ENV, (ctypes.c_int, _ERRORS), (ctypes.c_char_p, b"modelserver"))

    def session(self, network: Path, options: Any) -> Any:
        """Load a network. Raises `ModelError`."""
        path = str(network).encode()
        return self.made(
            *(_CREATE_SESSION, (Pointer, self._environment), (ctypes.c_char_p, path)),
            (Pointer, options),
        )

    def write_optimised(self, source: Path, target: Path, entries: Mapping[str, str]) -> None:
        """Load the network in the file `source` with all optimisations, and have the library write
        what it made of it to `target`.

        `entries`: session options (onnxruntime_session_options_config_keys.h). Raises `ModelError`.
        """
        options = self.options()
        text = ctypes.c_char_p
        self.function(_SET_OPTIMISED_PATH, Pointer, text)(options, str(target).encode())
        self.function(_SET_OPTIMISATION, Pointer, ctypes.c_int)(options, _ALL_OPTIMISATIONS)
        for key, value in entries.items():
            self.function(_ADD_CONFIG_ENTRY, Pointer, text, text)(
                options, key.encode(), value.encode()
            )
        try:
            self._release(_RELEASE_SESSION, self.session(source, options))
        finally:
            self._release(_RELEASE_OPTIONS, options)

    def _release(self, position: int, handle: Any) -> None:
        ctypes.CFUNCTYPE(None, Pointer)(self._table[position])(handle)
