"""Memory levels: how little memory is left."""

import enum


class Level(enum.IntEnum):
    """Level of memory: how little is left."""

    NORMAL = 0
    PRESSURE = 1
    CRITICAL = 2

    @property
    def word(self) -> str:
        """Name in logs and on status pages."""
        return self.name.lower()
