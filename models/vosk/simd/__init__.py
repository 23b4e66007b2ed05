"""SIMD library: lays the network's weights out once, before the first fork, instead of at every
call of a product, and searches the graph without asking the network for each arc.

It is a small C++ library (`source/`) with which the fork server is started (`LD_PRELOAD`), so that
libvosk's calls reach it. Its results are those of OpenBLAS's Haswell kernel and of the engine's
search, to the bit. The processor's flags decide which of its variants runs; without a suitable
variant, or a compiler to build it, everything works as without the library.
"""

import atexit
import functools
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.processor import AVX2, AVX512
from models.vosk.blas import CORETYPES, UnsupportedProcessor
from models.vosk.building import Built

LIBRARY = "modelserver-simd.so"
"""File name where it is installed ready made, in a directory `lib` of the system or of Python."""

SAME_AS = "Haswell"
"""Kernel of OpenBLAS with the same order of additions (`source/order.h`): beside it every result is
the same to the bit, on every x86 processor."""

VARIANTS = {"AVX-512": AVX512 | AVX2, "AVX2": AVX2, "NEON": frozenset({"asimd"})}
"""Processor flags that each variant needs, best first."""

ABI = 2
"""Version of the interface between the library and `models.vosk.simd.preloaded`; another library is
not used."""

_TRIAL = """
import ctypes, sys
try:
    found = ctypes.CDLL(sys.argv[1]).modelserver_simd_abi()
except (OSError, AttributeError) as error:
    sys.exit(str(error))
sys.exit(None if found == int(sys.argv[2]) else f"its ABI is {found}, and {sys.argv[2]} is wanted")
"""

_SOURCE = Path(__file__).parent / "source"
_SOURCES = ("build_id", "cells", "interpose", "packed", "product", "search", "weights")
SIMD = Built(
    "simd.so",
    tuple(_SOURCE / f"{name}.cc" for name in _SOURCES),
    ("-O3", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden"),
    ("-ldl",),
    "the wheel for this kind of machine, or: apt-get install g++",
    lambda library: (sys.executable, "-P", "-c", _TRIAL, str(library), str(ABI)),
    lambda: [Path(prefix) / "lib" / LIBRARY for prefix in (sys.prefix, "/usr/local", "/usr")],
)


@dataclass(frozen=True, slots=True)
class SimdLibrary:
    """SIMD library, and the variant of it that runs here."""

    library: Path
    variant: str

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables of a process that has the library. The linker splits the value at spaces and
        colons (ld.so(8)), so a path with one is replaced by a link without."""
        return {"LD_PRELOAD": str(_preloadable(self.library))}


@functools.lru_cache(maxsize=8)
def _preloadable(library: Path) -> Path:
    if not _SPLITS.search(str(library)):
        return library
    home = "/tmp" if _SPLITS.search(tempfile.gettempdir()) else None  # noqa: S108 - mkdtemp
    directory = tempfile.mkdtemp(prefix="modelserver-preload-", dir=home)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    link = Path(directory) / LIBRARY
    link.symlink_to(library)
    return link


_SPLITS = re.compile(r"[\s:]")


def choose_variant(flags: frozenset[str], blas: str = "auto") -> str | None:
    """Return the best variant that the processor can run, and that is not wider than the requested
    BLAS kernel."""
    within = flags & CORETYPES[blas] if blas in CORETYPES else flags
    return next((name for name, needed in VARIANTS.items() if needed <= within), None)


def must_run(flags: frozenset[str], blas: str) -> str:
    """Return the variant that runs here. Raises `UnsupportedProcessor`."""
    variant = choose_variant(flags, blas)
    if variant is None:
        raise UnsupportedProcessor(
            "this processor cannot run the SIMD library, which needs AVX2 with FMA, or NEON"
            + (f" (and blas = {blas} allows no more than it has)" if blas in CORETYPES else "")
        )
    return variant
