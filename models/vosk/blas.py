"""OpenBLAS's core type for libvosk, chosen by the processor's flags.

The OpenBLAS inside libvosk does not know newer processors and uses its SSE3 kernel for them. The
environment can name a better one (`OPENBLAS_CORETYPE`), read when the library is loaded; one that
the processor cannot run is a crash, so the flags decide which may be named.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from models.processor import AVX2, AVX512

CORETYPES = {
    "SkylakeX": AVX512 | AVX2,
    "Haswell": AVX2,
    "Sandybridge": frozenset({"avx"}),
    "Nehalem": frozenset({"sse4_2"}),
    "Prescott": frozenset({"pni"}),
}
"""Processor flags that each kernel needs (as /proc/cpuinfo names them), best first."""

AUTO, OFF = "auto", "off"


class UnsupportedProcessor(Exception):
    """Request for something that cannot run on this processor; the text says why."""


def blas_environment(wanted: str, flags: frozenset[str]) -> dict[str, str]:
    """Return the variables for the fork server. `wanted`: a key of `CORETYPES`, "auto", or "off",
    which leaves the choice to the library. Raises `UnsupportedProcessor`."""
    report = {"OPENBLAS_VERBOSE": "2"}  # makes the library print its kernel
    if wanted == OFF or not any(needed <= flags for needed in CORETYPES.values()):
        return report
    if wanted == AUTO:
        kernel = next((name for name, needed in CORETYPES.items() if needed <= flags), None)
        return report if kernel is None else {**report, "OPENBLAS_CORETYPE": kernel}
    missing = sorted(CORETYPES[wanted] - flags)
    if missing:
        raise UnsupportedProcessor(
            f"this processor cannot run the {wanted} kernel: it lacks {', '.join(missing)}"
        )
    return {**report, "OPENBLAS_CORETYPE": wanted}


@dataclass(slots=True)
class KernelReport:
    """Report of the library about its kernel, from when it was loaded."""

    kernel: str | None = field(default=None)


@contextmanager
def kernel_report() -> Iterator[KernelReport]:
    """Catch OpenBLAS's report on standard error while libvosk is loaded inside the block."""
    report = KernelReport()
    with tempfile.TemporaryFile() as caught:
        stderr = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield report
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            printed = caught.read().decode(errors="replace")
            found = re.search(r"^Core: (\w+)$", printed, re.MULTILINE)
            report.kernel = found.group(1) if found else None
            rest = re.sub(r"^Core: \w+\n", "", printed, flags=re.MULTILINE)
            os.write(2, rest.encode())
