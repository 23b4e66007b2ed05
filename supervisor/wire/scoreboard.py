"""The scoreboard: one fixed record per worker in memory shared by the whole tree.

A worker writes its own record and nobody else's; the supervisor reads without asking. A
heartbeat that stops means a hang.
"""

import enum
import mmap
import os
import time
from dataclasses import dataclass

_FIELDS = ("pid", "state", "heartbeat_ns", "job", "jobs_done", "busy_ns")
_WORDS_PER_RECORD = 16  # 128 bytes: two cache lines, so that neighbours do not slow each other
_WORD_BYTES = 8


class Activity(enum.IntEnum):
    """What a worker says it does."""

    VACANT = 0
    IDLE = 1
    BUSY = 2
    UNKNOWN = 3
    """The record was damaged: native code gone astray in the worker."""

    @classmethod
    def _missing_(cls, value: object) -> "Activity":
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One reading of one record. Times are of CLOCK_MONOTONIC."""

    pid: int
    activity: Activity
    heartbeat_ns: int
    job: int
    jobs_done: int
    busy_ns: int

    def silent_s(self, now_ns: int) -> float:
        """Seconds since the last heartbeat."""
        return max(0, now_ns - self.heartbeat_ns) / 1e9


class Scoreboard:
    """`records` records over the shared descriptor `fd`, which stays the caller's."""

    def __init__(self, fd: int, records: int) -> None:
        self.records = records
        self._map = mmap.mmap(fd, records * _WORDS_PER_RECORD * _WORD_BYTES)
        self._words = memoryview(self._map).cast("Q")

    @staticmethod
    def create_fd(records: int) -> int:
        """A descriptor of zeroed shared memory that holds `records` records."""
        fd = os.memfd_create("scoreboard", os.MFD_CLOEXEC)
        os.ftruncate(fd, records * _WORDS_PER_RECORD * _WORD_BYTES)
        return fd

    def read(self, record: int) -> WorkerRecord:
        """The record as it is now; its fields are each whole, but not of one instant."""
        at = record * _WORDS_PER_RECORD
        pid, activity, heartbeat, job, done, busy = self._words[at : at + len(_FIELDS)]
        return WorkerRecord(pid, Activity(activity), heartbeat, job, done, busy)

    def writer(self, record: int) -> "RecordWriter":
        """The one worker's hand on its record, which starts anew."""
        at = record * _WORDS_PER_RECORD
        return RecordWriter(self._words[at : at + len(_FIELDS)])

    def clear(self, record: int) -> None:
        """Make the record vacant: its worker is gone."""
        at = record * _WORDS_PER_RECORD
        for word in range(at, at + len(_FIELDS)):
            self._words[word] = 0

    def close(self) -> None:
        """Unmap."""
        self._words.release()
        self._map.close()


class RecordWriter:
    """Writes one record. Every call is a heartbeat."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._words[_FIELDS.index("jobs_done")] = 0
        self._words[_FIELDS.index("busy_ns")] = 0
        self._words[_FIELDS.index("pid")] = os.getpid()
        self.idle()

    def beat(self) -> int:
        """Alive, and doing what the record says. Returns the time written."""
        now = time.monotonic_ns()
        self._words[_FIELDS.index("heartbeat_ns")] = now
        return now

    def idle(self) -> None:
        """Waiting for a job."""
        self.beat()
        self._words[_FIELDS.index("state")] = Activity.IDLE
        self._words[_FIELDS.index("job")] = 0

    def busy(self, job: int) -> None:
        """Running `job`."""
        self.beat()
        self._words[_FIELDS.index("job")] = job
        self._words[_FIELDS.index("state")] = Activity.BUSY

    def turned_to(self, number: int) -> int:
        """Working on `number` for a moment (0: nothing), be it idle or busy otherwise. Returns what
        it was working on."""
        at = _FIELDS.index("job")
        before, self._words[at] = int(self._words[at]), number
        self.beat()
        return before

    def finished(self, busy_ns: int) -> None:
        """The job ended, however it did, after `busy_ns`."""
        self._words[_FIELDS.index("jobs_done")] += 1
        self._words[_FIELDS.index("busy_ns")] += busy_ns
        self.idle()
