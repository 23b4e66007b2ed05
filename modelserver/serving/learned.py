"""Lessons of loading and serving models: that one needs more memory than was predicted, that a
prepared one is damaged, and that one cannot be loaded in some way. Remembered as long as the server
runs."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import structlog

import models

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")

FormKey = tuple[Path, str]
"""Key of a form (`models.Form.key`)."""

_VERIFY_EVERY_S = 60.0
"""A prepared model that was whole is not read again sooner, unless its files have changed: crashes
may come of what is sent."""

_MOST_FAILURES = 2
"""Loads in one way that fail before another way is taken."""


@dataclass(slots=True)
class Lessons:
    """Experience from earlier loads. `needs`: for a form, bytes that were predicted, and the least
    bytes that a load has shown it to need. `unusable`: directories of prepared models that are not
    loaded any more, with the reason: they are damaged and could not be removed. `failed`: forms
    whose loads fail, with the reason."""

    needs: dict[FormKey, tuple[int, int]] = field(default_factory=dict)
    unusable: dict[Path, str] = field(default_factory=dict)
    failed: dict[FormKey, str] = field(default_factory=dict)
    _failures: Counter[FormKey] = field(default_factory=Counter)

    def needs_of(self, form: models.Form) -> int:
        """Return what loads have shown a form to need: its own, and those of forms of the model
        that are predicted to need no more. 0 where nothing has shown it."""
        directory, predicted = form.location.directory, form.prediction.model
        return max(
            (
                shown
                for key, (at, shown) in self.needs.items()
                if key[0] == directory and at <= predicted
            ),
            default=0,
        )

    def load_failed(self, form: models.Form, why: str, *, last: bool = False) -> None:
        """Record a load that ended in a way that would repeat itself. After two, the next form is
        loaded; the `last` one is tried again."""
        if last:
            return
        self._failures[form.key] += 1
        if self._failures[form.key] != _MOST_FAILURES:
            return
        reason = f"{_MOST_FAILURES} loads have failed, the last one so: {why}"
        self.failed[form.key] = reason
        model = str(form.prepared or form.location.directory)
        log.error("form.disabled", model=model, form=form.name, problem=reason)

    def begin_again(self) -> None:
        """Forget what was learned: an operator has changed something."""
        self.unusable.clear()
        self.failed.clear()
        self._failures.clear()


_Times = dict[Path, tuple[int, int, int]]
"""Size in bytes of each file of a prepared model, and when it was modified and changed in ns."""


def _times_of(directory: Path) -> _Times:
    """Read them, without following links: originals are checked when they are loaded. Empty where
    files come and go meanwhile."""
    try:
        found = [(file, file.lstat()) for file in directory.rglob("*")]
    except OSError:
        return {}
    return {file: (its.st_size, its.st_mtime_ns, its.st_ctime_ns) for file, its in found}


class CrashInquiry:
    """Finds out whether a crash comes of a prepared model that is not as it was made any more: cut
    short, which every page of it that is missing tells with a SIGBUS, or changed."""

    def __init__(self, lessons: Lessons) -> None:
        self._lessons = lessons
        self._lock = asyncio.Lock()
        self._verified: dict[Path, tuple[float, _Times]] = {}
        """Time at which each was read last, and the times of its files just before that."""
        self._removed: set[Path] = set()

    async def sound(self, engine: models.Engine, form: models.Form) -> bool:
        """Return False if the prepared form is damaged; it is then removed, or never used again."""
        if (directory := form.prepared) is None:
            return True
        async with self._lock:
            if directory in self._lessons.unusable:
                return False
            if not directory.exists():  # removed by us or by others, which does not harm its maps
                return directory not in self._removed
            problem = await asyncio.to_thread(self._damage, engine, form, directory)
            if problem is None:
                return True
            log.error("prepared_model.rejected", problem=f"{directory}: {problem}")
            await asyncio.to_thread(self._put_away, engine, directory, form.location.directory)
            return False

    def _damage(self, engine: models.Engine, form: models.Form, directory: Path) -> str | None:
        """Return what is damaged. The files are read, unless they were whole a short time ago and
        have not been written to since."""
        times = _times_of(directory)  # before the files are read: what changes then is seen later
        verified_at, seen = self._verified.get(directory, (float("-inf"), {}))
        rested = time.monotonic() - verified_at >= _VERIFY_EVERY_S
        thorough = rested or not times or times != seen
        problem = engine.sound(form, thorough=thorough)
        if thorough:
            self._verified[directory] = time.monotonic(), times
        return problem

    def _put_away(self, engine: models.Engine, directory: Path, original: Path) -> None:
        if engine.store is not None and directory != original:
            try:
                engine.store.remove(directory)
            except OSError as error:
                log.warning(
                    "prepared_model.removal_failed", directory=str(directory), reason=error.strerror
                )
            else:
                self._removed.add(directory)
                return
        self._lessons.unusable[directory] = "it is known to be damaged"
