"""Messages that the library writes to its standard error while a call runs, caught in memory.

sherpa-onnx logs a failed decode and returns an empty result. The C library's `stderr` is a
variable: while a call runs it refers to a stream in memory, which needs no descriptor and no system
call that a worker's sandbox refuses, and of which each forked process has its own.
"""

import contextlib
import ctypes
from collections.abc import Iterator


class LibraryMessages:
    """Catches messages that C code writes to `stderr`."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        libc.open_memstream.restype = ctypes.c_void_p
        self._flush, self._seek = libc.fflush, libc.fseek
        self._flush.argtypes = [ctypes.c_void_p]
        self._seek.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_int]
        self._text, self._size = ctypes.c_void_p(), ctypes.c_size_t()
        self._stream = libc.open_memstream(ctypes.byref(self._text), ctypes.byref(self._size))
        if not self._stream:
            raise MemoryError("a stream in memory cannot be opened")
        self._stderr = ctypes.c_void_p.in_dll(libc, "stderr")

    @contextlib.contextmanager
    def caught(self) -> Iterator[list[str]]:
        """Catch messages in the block. After the block the list has one item, the whole text."""
        texts: list[str] = []
        own, self._stderr.value = self._stderr.value, self._stream
        try:
            yield texts
        finally:
            self._stderr.value = own
            self._flush(self._stream)
            text = ctypes.string_at(self._text, self._size.value) if self._size.value else b""
            texts.append(text.decode("utf-8", "replace"))
            self._seek(self._stream, 0, 0)
