"""Sizes in units for people."""


def in_units(count: float) -> str:
    """Return a number of bytes in a fitting unit, such as "1.5 GB"."""
    for unit, base in (("GB", 1e9), ("MB", 1e6)):
        if abs(count) >= base:
            return f"{count / base:.{1 if base == 1e9 else 0}f} {unit}"
    return f"{count / 1e3:.0f} kB"


def counted(count: int, noun: str, several: str = "") -> str:
    """Return a count with its noun: "1 worker", "2 workers". `several`: a plural without -s."""
    return f"{count} {noun if count == 1 else several or noun + 's'}"
