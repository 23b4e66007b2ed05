"""Pressure stall information: the share of time in which tasks waited for memory."""

from dataclasses import dataclass
from pathlib import Path

from supervisor.readings.files import read_file

PROC = Path("/proc/pressure/memory")


@dataclass(frozen=True, slots=True)
class Pressure:
    """Pressure from a PSI file (Documentation/accounting/psi.rst), of at least one waiting task:
    percent of the last ten seconds, and microseconds since boot."""

    some_avg10: float
    some_total_us: int


def read_pressure(file: Path = PROC) -> Pressure | None:
    """Return the file's content, or None if the kernel does not offer it."""
    lines = {}
    for line in read_file(file).decode("ascii").splitlines():
        kind, *pairs = line.split()
        lines[kind] = dict(pair.split("=", 1) for pair in pairs)
    if "some" not in lines:
        return None
    some = lines["some"]
    return Pressure(float(some["avg10"]), int(some["total"]))
