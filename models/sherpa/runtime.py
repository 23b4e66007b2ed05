"""ONNX Runtime as bundled with sherpa-onnx, called through its C interface.

The Python package of ONNX Runtime starts threads, is another build, and takes another 20 MB.
Positions in the table of functions never change (onnxruntime_c_api.h: functions are added at the
end only).
"""

import contextlib
import ctypes
import functools
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.contract import ModelError
from models.extras import how_to_install
from models.processor import processor_flags

_API_VERSION = 16
"""Version of the table that has all functions that are called; later libraries support it."""
_GET_MESSAGE, _RELEASE_STATUS = 2, 93
_CREATE_ENV, _CREATE_SESSION, _CREATE_OPTIONS = 3, 7, 10
_SET_OPTIMISED_PATH, _DISABLE_PATTERN, _DISABLE_ARENA = 11, 17, 19
_SET_OPTIMISATION, _SET_THREADS, _ADD_CONFIG_ENTRY = 23, 24, 130
_RELEASE_SESSION, _RELEASE_OPTIONS = 95, 100
_RUN, _CREATE_TENSOR, _TENSOR_DATA = 9, 49, 51
_ELEMENT_TYPE, _DIMENSIONS_COUNT, _DIMENSIONS, _TENSOR_SHAPE, _CPU_MEMORY = 60, 61, 62, 65, 69
_RELEASE_MEMORY, _RELEASE_VALUE, _RELEASE_SHAPE = 94, 96, 99
_FLOAT, _INT32, _DEVICE_ALLOCATOR, _DEFAULT_MEMORY = 1, 6, 0, 0
_ERRORS, _ALL_OPTIMISATIONS = 3, 99

_LAYOUT_FLAGS = ("avx", "amx", "fma", "asimd", "i8mm", "sve", "bf16")
"""Beginnings of the processor flags by which ONNX Runtime chooses its layout of weights."""

Pointer = ctypes.c_void_p


def file_of(package: str, name: str) -> Path:
    """Return a file inside an installed package. Raises `ModelError`, code `engine_missing`."""
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder) / name).is_file():
            return file
    raise ModelError(
        "engine_missing", f"{package} is not installed, or is incomplete: {how_to_install('onnx')}"
    )


def library_file() -> Path:
    """Return the library. Raises `ModelError`, code `engine_missing`."""
    return file_of("sherpa_onnx", "lib/libonnxruntime.so")


@contextlib.contextmanager
def session_options(*, prepared: bool = False) -> Iterator[str]:
    """Give the name of sherpa-onnx's provider, with a file of session options that lasts for the
    block. `prepared`: the networks are optimised already.

    Without the arena and the pattern, memory that a long utterance took is released after it.
    """
    lines = ["EnableCpuMemArena=0", "EnableMemPattern=0"]
    if prepared:
        lines.append("GraphOptimizationLevel=0")
    with memory_file("".join(f"{line}\n" for line in lines).encode()) as file:
        yield f"cpu:{file}"


@contextlib.contextmanager
def memory_file(content: bytes) -> Iterator[str]:
    """Give the path of a file in memory that lasts for the block."""
    descriptor = os.memfd_create("modelserver")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def weights_layout() -> str:
    """Return the processor's flags that decide the layout of weights, in order."""
    return " ".join(sorted(flag for flag in processor_flags() if flag.startswith(_LAYOUT_FLAGS)))


@dataclass(frozen=True, slots=True)
class Integers:
    """A tensor of 32-bit integers."""

    values: Sequence[int]
    shape: tuple[int, ...]


class Runtime:
    """Table of the library's functions."""

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
        """Return the object that a function makes in its last argument. `arguments`: type and value
        of the others."""
        handle = Pointer()
        types = [kind for kind, _ in arguments]
        values = [value for _, value in arguments]
        self.function(position, *types, Pointer)(*values, ctypes.byref(handle))
        return handle

    def options(self) -> Any:
        """Return session options: one thread, and no memory retained for later."""
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

    def run(
        self, session: Any, inputs: Mapping[str, Integers], outputs: Sequence[str]
    ) -> list[list[list[float]]]:
        """Run a network on the named `inputs`. Returns the rows of each output, which has two
        dimensions of 32-bit floats. Raises `ModelError`."""
        memory = self.made(
            _CPU_MEMORY, (ctypes.c_int, _DEVICE_ALLOCATOR), (ctypes.c_int, _DEFAULT_MEMORY)
        )
        values: list[Any] = []
        try:
            buffers = [(ctypes.c_int32 * len(one.values))(*one.values) for one in inputs.values()]
            for one, buffer in zip(inputs.values(), buffers, strict=True):
                values.append(self._tensor(memory, buffer, one.shape))
            results = (Pointer * len(outputs))()
            self.function(
                *(_RUN, Pointer, Pointer, Pointer, Pointer, ctypes.c_size_t),
                *(Pointer, ctypes.c_size_t, Pointer),
            )(
                *(session, None, _names(inputs), (Pointer * len(values))(*values), len(values)),
                *(_names(outputs), len(outputs), results),
            )
            made = [Pointer(result) for result in results]
            values += made
            return [self._rows(value) for value in made]
        finally:
            for value in values:
                self._release(_RELEASE_VALUE, value)
            self._release(_RELEASE_MEMORY, memory)

    def _tensor(self, memory: Any, buffer: Any, shape: tuple[int, ...]) -> Any:
        size = ctypes.c_size_t
        return self.made(
            _CREATE_TENSOR,
            (Pointer, memory),
            (Pointer, ctypes.cast(buffer, Pointer)),
            (size, ctypes.sizeof(buffer)),
            (Pointer, ctypes.cast((ctypes.c_int64 * len(shape))(*shape), Pointer)),
            (size, len(shape)),
            (ctypes.c_int, _INT32),
        ).value

    def _rows(self, value: Any) -> list[list[float]]:
        shape = self.made(_TENSOR_SHAPE, (Pointer, value))
        try:
            kind, count, sizes = ctypes.c_int(), ctypes.c_size_t(), (ctypes.c_int64 * 2)()
            self.function(_ELEMENT_TYPE, Pointer, Pointer)(shape, ctypes.byref(kind))
            if kind.value != _FLOAT:
                raise ModelError("engine_failed", "the network's output is not of 32-bit floats")
            self.function(_DIMENSIONS_COUNT, Pointer, Pointer)(shape, ctypes.byref(count))
            if count.value != len(sizes):
                raise ModelError("engine_failed", f"the network's output has {count.value} axes")
            self.function(_DIMENSIONS, Pointer, Pointer, ctypes.c_size_t)(shape, sizes, len(sizes))
        finally:
            self._release(_RELEASE_SHAPE, shape)
        data = self.made(_TENSOR_DATA, (Pointer, value))
        rows, columns = sizes
        numbers = ctypes.cast(data, ctypes.POINTER(ctypes.c_float))
        return [numbers[row * columns : (row + 1) * columns] for row in range(rows)]

    def write_optimised(self, source: Path, target: Path, entries: Mapping[str, str]) -> None:
        """Load the network in the file `source` with all optimisations, and have the library write
        the result to `target`.

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


def _names(names: Iterable[str]) -> Any:
    encoded = [name.encode() for name in names]
    return (ctypes.c_char_p * len(encoded))(*encoded)
