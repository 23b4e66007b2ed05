"""What loading and serving models has taught: that one needs more memory than was predicted, that a
prepared one is damaged, and that one cannot be loaded in some way. Remembered as long as the server
runs."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from models.vosk.prepared import PreparedModel, changed_size, remove, verify

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")

Form = tuple[Path, Path | None, tuple[str, ...]]
"""A model's directory, that of its prepared form, and the folders that are left out."""

_VERIFY_EVERY_S = 60.0
"""A prepared model that is whole is not read again sooner: crashes may come of what is sent."""


_MOST_FAILURES = 2
"""Loads in one way that fail before another way is taken."""


@dataclass(slots=True)
class Lessons:
    """`needs`: bytes that a load has shown a form to need at the least. `unusable`: prepared models
    that are not loaded any more, with the reason: they are damaged and could not be removed, or
    loading them fails. `without_simd`: forms that are loaded without the SIMD library, with the
    reason."""

    needs: dict[Form, int] = field(default_factory=dict)
    unusable: dict[Path, str] = field(default_factory=dict)
    without_simd: dict[Form, str] = field(default_factory=dict)
    _failures: Counter[tuple[Form, bool]] = field(default_factory=Counter)

    def needs_of(self, form: Form) -> int:
        """0 where nothing has shown it."""
        return self.needs.get(form, 0)

    def load_failed(self, form: Form, why: str, *, with_simd: bool) -> None:
        """A load ended in a way that would repeat itself. After two, the form is loaded without
        the SIMD library if it had it, or else the model as it was published."""
        original, made, _ = form
        self._failures[form, with_simd] += 1
        if self._failures[form, with_simd] < _MOST_FAILURES:
            return
        reason = f"{_MOST_FAILURES} loads have failed, the last one so: {why}"
        if with_simd:
            self.without_simd[form] = reason
            log.error("simd.disabled", model=str(made or original), problem=reason)
        elif made is not None and made != original:
            self.unusable[made] = reason

    def begin_again(self) -> None:
        """Forget what was learned: an operator has changed something."""
        self.unusable.clear()
        self.without_simd.clear()
        self._failures.clear()


class CrashInquiry:
    """Whether a crash comes of a prepared model that is not as it was made any more: cut short,
    which every page of it that is missing tells with a SIGBUS, or changed."""

    def __init__(self, lessons: Lessons) -> None:
        self._lessons = lessons
        self._lock = asyncio.Lock()
        self._verified: dict[Path, float] = {}
        self._removed: set[Path] = set()

    async def sound(self, prepared: PreparedModel | None, original: Path) -> bool:
        """False if it is damaged; then it is gone, or never used again. `original`: the directory
        of the model that it was made from."""
        if prepared is None:
            return True
        async with self._lock:
            directory = prepared.directory
            if directory in self._lessons.unusable:
                return False
            if not directory.exists():  # by us, or by somebody else: that does no harm to its maps
                return directory not in self._removed
            rested = time.monotonic() - self._verified.get(directory, -1e9) >= _VERIFY_EVERY_S
            problem = await asyncio.to_thread(_problem, prepared, thorough=rested)
            if rested:
                self._verified[directory] = time.monotonic()
            if problem is None:
                return True
            log.error("prepared_model.rejected", problem=f"{directory}: {problem}")
            await asyncio.to_thread(self._put_away, prepared, original)
            return False

    def _put_away(self, prepared: PreparedModel, original: Path) -> None:
        if prepared.directory != original:
            try:
                remove(prepared)
            except OSError as error:
                log.warning(
                    "prepared_model.removal_failed",
                    directory=str(prepared.directory),
                    reason=error.strerror,
                )
            else:
                self._removed.add(prepared.directory)
                return
        self._lessons.unusable[prepared.directory] = "it is known to be damaged"


def _problem(prepared: PreparedModel, *, thorough: bool) -> str | None:
    """Sizes first, which cost nothing. Reads the whole of it if that is asked for."""
    if (problem := changed_size(prepared)) is not None or not thorough:
        return problem
    return next(iter(verify(prepared)), None)
