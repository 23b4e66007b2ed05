"""The levels of memory that is left."""

import enum


class Level(enum.IntEnum):
    """Level of how little memory is left."""

    NORMAL = 0
    PRESSURE = 1
    CRITICAL = 2

    @property
    def word(self) -> str:
        """As logs and status pages show it."""
        return self.name.lower()
