"""SIMD library inside the process that loads a model: attached to the engine, notified when the
weights are constant, and switched off if texts differ with it."""

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

from models.vosk.simd import ABI

_REASONS = {
    1: "this processor cannot run it",
    2: "the engine's library is not the one that it was written for",
    3: "the engine's calls do not reach it: another library is preloaded before it",
}


def _has(functions: ctypes.CDLL, name: str) -> bool:
    return hasattr(functions, f"modelserver_simd_{name}")


class SimdUnavailable(Exception):
    """Error: the library cannot be used in this process; the text says why."""


class PreloadedSimd:
    """SIMD library with which this process was started."""

    def __init__(self, functions: ctypes.CDLL, variant: str) -> None:
        self._functions = functions
        self.variant = variant
        self.refused: str | None = None
        """Reason why it is not used, if texts differed with it; None otherwise."""
        self.aside_bytes = 0
        """Bytes of weights that are in memory only in packed form."""

    @classmethod
    def attach(cls, engine: Path, variant: str) -> "PreloadedSimd":
        """Redirect the calls of the loaded library `engine` to the variant of that name. Raises
        `SimdUnavailable`."""
        functions = ctypes.CDLL(None)
        try:
            attach = functions.modelserver_simd_attach
        except AttributeError:
            raise SimdUnavailable("this process was started without it") from None
        found = functions.modelserver_simd_abi() if _has(functions, "abi") else 0
        if found != ABI:
            raise SimdUnavailable(
                f"the library that this process was started with has the ABI {found}, and {ABI} is "
                "wanted: is an older version installed?"
            )
        attach.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        functions.modelserver_simd_begin.argtypes = [ctypes.c_size_t]
        functions.modelserver_simd_seal.argtypes = [ctypes.c_size_t]
        for name in ("seal", "freeze", "products", "packed_bytes", "restored", "searched"):
            getattr(functions, f"modelserver_simd_{name}").restype = ctypes.c_size_t
        refused = attach(str(engine).encode(), variant.encode())
        if refused:
            raise SimdUnavailable(_REASONS[refused])
        return cls(functions, variant)

    @contextlib.contextmanager
    def weights(self, most_bytes: int, packed_bytes: int) -> Iterator[None]:
        """Treat large allocations in the block as weights, which are constant after it.
        `most_bytes`: of all of them, including those that are freed again. Up to `packed_bytes` of
        them may be packed.

        Raises `SimdUnavailable` if there is no address space for them, or in a process that has
        loaded a model before.
        """
        if self._functions.modelserver_simd_begin(most_bytes) != 0:
            self.use(use=False)
            raise SimdUnavailable("there is no room for the weights, or a model was loaded before")
        try:
            yield
        finally:
            self._functions.modelserver_simd_seal(packed_bytes)

    def use(self, *, use: bool) -> None:
        """Use the library, or leave everything to the engine."""
        self._functions.modelserver_simd_use(int(use))

    def search(self, *, use: bool) -> None:
        """Search in the graph, or leave only that to the engine."""
        self._functions.modelserver_simd_search(int(use))

    @property
    def searches(self) -> bool:
        """True if it searches the graph, too: the engine is a build whose data layout is known."""
        return bool(self._functions.modelserver_simd_searches())

    def freeze(self) -> None:
        """Stop packing: packed weights are now shared by every fork. If the library is used, the
        engine's own copy of them is released; a process that reads it nevertheless gets a copy in
        its own memory."""
        self.aside_bytes = int(self._functions.modelserver_simd_freeze())

    @property
    def products(self) -> int:
        """Number of products that it has computed in this process."""
        return int(self._functions.modelserver_simd_products())

    @property
    def packed_bytes(self) -> int:
        """Bytes of weights that are packed."""
        return int(self._functions.modelserver_simd_packed_bytes())

    @property
    def restored(self) -> int:
        """Number of released weights that were read after all in this process."""
        return int(self._functions.modelserver_simd_restored())

    @property
    def searched(self) -> int:
        """Number of audio frames for which it has searched the graph in this process."""
        return int(self._functions.modelserver_simd_searched())

    def alike(self, answers: Callable[[], list[str]]) -> str | None:
        """Compare answers without and with the library. Return None if they are the same, else the
        difference: then it is not used any more, and `refused` has it."""
        self.refused = self._difference(answers)
        if self.refused is not None:
            self.use(use=False)
        return self.refused

    def _difference(self, answers: Callable[[], list[str]]) -> str | None:
        self.use(use=False)
        without = answers()
        self.use(use=True)
        done = self.products
        for own, ours in zip(without, answers(), strict=True):
            if own != ours:
                return f"with it {own[:80]!r} became {ours[:80]!r}"
        if self.products == done:
            return "it computes no product of this model"
        return None
