"""ONNX Runtime as sherpa-onnx bundles it, asked through its C interface.

sherpa-onnx exposes no way to write an optimised model. The copy that it bundles has one, and an
optimised model belongs to the build that wrote it: so that library itself is asked. Positions in
the table of functions never change (onnxruntime_c_api.h: functions are added at the end only).
"""

import ctypes
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.contract import ModelError
from models.processor import processor_flags

_API_VERSION = 16
"""Version of the table that has all functions below; later libraries keep it."""
_GET_MESSAGE, _CREATE_ENV, _CREATE_SESSION, _CREATE_OPTIONS = 2, 3, 7, 10
_SET_OPTIMISED_PATH, _SET_OPTIMISATION, _SET_THREADS = 11, 23, 24
_RELEASE_ENV, _RELEASE_STATUS, _RELEASE_SESSION, _RELEASE_OPTIONS = 92, 93, 95, 100
_ADD_CONFIG_ENTRY = 130

_ERRORS, _ALL_OPTIMISATIONS = 3, 99

_LAYOUT_FLAGS = ("avx", "avx_vnni", "avx2", "avx512", "amx", "fma", "asimd", "i8mm", "sve", "bf16")
"""Beginnings of the processor flags by which ONNX Runtime chooses how it lays weights out."""

_Pointer = ctypes.c_void_p


def library_file() -> Path | None:
    """Return the ONNX Runtime that sherpa-onnx bundles; None where it is not installed."""
    spec = importlib.util.find_spec("sherpa_onnx")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "lib" / "libonnxruntime.so"
    return file if file.is_file() else None


def library_version(library: ctypes.CDLL) -> str:
    """Return the library's version, such as `1.28.2`."""
    get_version = ctypes.CFUNCTYPE(ctypes.c_char_p)(_base(library)[1])
    version: bytes = get_version()
    return version.decode()


def weights_layout() -> str:
    """Return the processor's flags that decide how weights are laid out, in order."""
    return " ".join(sorted(flag for flag in processor_flags() if flag.startswith(_LAYOUT_FLAGS)))


def load_library() -> ctypes.CDLL:
    """Load the ONNX Runtime that sherpa-onnx bundles. Raises `ModelError`."""
    file = library_file()
    if file is None:
        raise ModelError("engine_missing", "sherpa-onnx, or the ONNX Runtime in it, is not there")
    try:
        return ctypes.CDLL(str(file))
    except OSError as error:
        raise ModelError("engine_missing", f"{file} cannot be loaded: {error}") from error


def write_optimised(
    library: ctypes.CDLL, source: Path, target: Path, entries: Mapping[str, str]
) -> None:
    """Load the model in the file `source` on one thread with all optimisations, and have the
    library write what it made of it to `target`.

    `entries`: session options (onnxruntime_session_options_config_keys.h). Raises `ModelError`,
    code `compile_failed`, with the library's own message.
    """
    api = ctypes.cast(_get_api(library), ctypes.POINTER(_Pointer))
    environment, options, session = _Pointer(), _Pointer(), _Pointer()
    try:
        _call(api, _CREATE_ENV, ctypes.c_int(_ERRORS), b"prepare", ctypes.byref(environment))
        _call(api, _CREATE_OPTIONS, ctypes.byref(options))
        _call(api, _SET_OPTIMISED_PATH, options, str(target).encode())
        _call(api, _SET_OPTIMISATION, options, ctypes.c_int(_ALL_OPTIMISATIONS))
        _call(api, _SET_THREADS, options, ctypes.c_int(1))
        for key, value in entries.items():
            _call(api, _ADD_CONFIG_ENTRY, options, key.encode(), value.encode())
        path = str(source).encode()
        _call(api, _CREATE_SESSION, environment, path, options, ctypes.byref(session))
    finally:
        for release, handle in (
            (_RELEASE_SESSION, session),
            (_RELEASE_OPTIONS, options),
            (_RELEASE_ENV, environment),
        ):
            if handle:
                ctypes.CFUNCTYPE(None, _Pointer)(api[release])(handle)


def _base(library: ctypes.CDLL) -> Any:
    library.OrtGetApiBase.restype = _Pointer
    return ctypes.cast(library.OrtGetApiBase(), ctypes.POINTER(_Pointer))


def _get_api(library: ctypes.CDLL) -> int:
    get_api = ctypes.CFUNCTYPE(_Pointer, ctypes.c_uint32)(_base(library)[0])
    table: int | None = get_api(_API_VERSION)
    if table is None:
        raise ModelError("compile_failed", "this ONNX Runtime has another interface than expected")
    return table


def _call(api: Any, position: int, *arguments: Any) -> None:
    """Call a function that returns a status. Raises `ModelError` where that is no success."""
    types = [ctypes.c_char_p if isinstance(a, bytes) else _type_of(a) for a in arguments]
    status = ctypes.CFUNCTYPE(_Pointer, *types)(api[position])(*arguments)
    if status:
        message: bytes = ctypes.CFUNCTYPE(ctypes.c_char_p, _Pointer)(api[_GET_MESSAGE])(status)
        ctypes.CFUNCTYPE(None, _Pointer)(api[_RELEASE_STATUS])(status)
        raise ModelError("compile_failed", message.decode(errors="replace").strip())


def _type_of(argument: Any) -> Any:
    """Return the C type: integers are passed as such, handles and references as pointers."""
    return ctypes.c_int if isinstance(argument, ctypes.c_int) else _Pointer
