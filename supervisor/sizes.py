"""Sizes as a person reads them."""


def in_units(count: float) -> str:
    """Bytes, in the unit that fits."""
    for unit, base in (("GB", 1e9), ("MB", 1e6)):
        if abs(count) >= base:
            return f"{count / base:.{1 if base == 1e9 else 0}f} {unit}"
    return f"{count / 1e3:.0f} kB"
