"""Sizes and times as a person reads them."""

import time


def size(count: float) -> str:
    """Bytes, in the unit that fits."""
    for unit, base in (("GB", 1e9), ("MB", 1e6)):
        if abs(count) >= base:
            return f"{count / base:.{1 if base == 1e9 else 0}f} {unit}"
    return f"{count / 1e3:.0f} kB"


def ago(seconds_since_epoch: float) -> str:
    """How long ago."""
    seconds = max(0.0, time.time() - seconds_since_epoch)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
