"""Features of this processor, as the kernel reports them."""

import functools
import platform
from pathlib import Path

AVX512 = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
AVX2 = frozenset({"avx2", "fma"})
"""Flags, as /proc/cpuinfo names them, of AVX-512 as servers have it, and of AVX2 with fused
multiplication and addition."""


@functools.cache
def processor_flags() -> frozenset[str]:
    """Return this processor's flags from /proc/cpuinfo: "flags" on x86, "Features" on aarch64."""
    named = {"x86_64": "flags", "aarch64": "Features"}.get(platform.machine())
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == named:
            return frozenset(value.split())
    return frozenset()
