"""Where the kernel itself tells that memory is getting short, so that nobody has to look all the
time: thresholds and pressure levels of version 1 cgroups, events and pressure of version 2, a
`memory.high` as threshold where a version 2 cgroup is ours (`delegation.py`), and pressure of the
machine or of whatever the service manager has us watch.

Documentation/admin-guide/cgroup-v1/memory.rst (9 and 11), cgroup-v2.rst (memory.events),
Documentation/accounting/psi.rst, and systemd's "Memory Pressure Handling".
"""

import base64
import binascii
import contextlib
import os
import select
import socket
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from supervisor.readings.cgroups import ROOT, UNIFIED, directories, own_cgroups
from supervisor.readings.delegation import lift, settled
from supervisor.readings.files import read_number
from supervisor.readings.pressure import PROC

STEP_BYTES = 8 * 1024 * 1024
"""What may be charged to a cgroup before its threshold tells."""
_CONTROL = "cgroup.event_control"
_USAGE = "memory.usage_in_bytes"
_USAGE_2, _HIGH, _EVENTS = "memory.current", "memory.high", "memory.events"
_ONLY_IN_ROOT = "cgroup.sane_behavior"
_EVENT_BYTES = 4096
_TRIGGERS = (b"some 50000 500000\0", b"some 150000 2000000\0")
"""Stalls in a window, in microseconds. Without privileges a window is a multiple of two seconds."""


class Alarm:
    """A descriptor on which `events` (of poll(2)) come when it rings."""

    def __init__(
        self, name: str, fd: int, events: int, quieten: Callable[[int], object] | None = None
    ) -> None:
        """`quieten`: what makes it ring again only for something new, if polling is not enough."""
        self.name, self.fd, self.events = name, fd, events
        self._quieten = quieten

    def quieten(self) -> None:
        """It has been heard. `OSError` where it will not ring any more."""
        if self._quieten is not None:
            with contextlib.suppress(BlockingIOError):
                self._quieten(self.fd)

    def close(self) -> None:
        """Give the descriptor back, and with it what the kernel keeps for it."""
        os.close(self.fd)


# --- sources: each raises `OSError` where there is no such thing ---------------------------------


def pressure(file: Path, triggers: Iterable[bytes] = _TRIGGERS) -> Alarm:
    """Tasks have waited for memory, by a PSI file; the first trigger that the kernel takes."""
    return _written(file, triggers, select.EPOLLPRI)


def cgroup_events(directory: Path) -> Alarm:
    """A version 2 cgroup has reached `memory.high` or `memory.max`."""
    file = directory / _EVENTS
    alarm = Alarm(str(file), os.open(file, os.O_RDONLY | os.O_CLOEXEC), select.EPOLLPRI, _read_anew)
    alarm.quieten()
    return alarm


def reclaim(directory: Path) -> Alarm:
    """A version 1 cgroup is at its limit and takes file cache back."""
    return _event_fd(directory, "memory.pressure_level", "low")


def threshold(directory: Path, count: int) -> Alarm:
    """What is charged to a version 1 cgroup has crossed `count` bytes."""
    return _event_fd(directory, _USAGE, str(count))


def high(directory: Path, count: int) -> Alarm:
    """What is charged to a version 2 cgroup of ours has crossed `count` bytes. Beyond, the kernel
    takes file cache back and holds up who wants more: so it is lifted when it has rung."""
    file = directory / _EVENTS

    def quieten(fd: int) -> None:
        _read_anew(fd)
        lift(directory)

    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _read_anew(fd)
        (directory / _HIGH).write_text(str(count), encoding="ascii")
    except OSError:
        os.close(fd)
        raise
    return Alarm(f"{directory / _HIGH} {count}", fd, select.EPOLLPRI, quieten)


def watched(environment: Mapping[str, str]) -> Alarm:
    """What `$MEMORY_PRESSURE_WATCH` names: a PSI file, a FIFO or a socket."""
    path = environment.get("MEMORY_PRESSURE_WATCH", "")
    if not path.startswith("/") or path == os.devnull:
        raise FileNotFoundError("nothing is to be watched")
    try:
        wanted = base64.b64decode(environment.get("MEMORY_PRESSURE_WRITE", ""), validate=True)
    except binascii.Error as error:
        raise OSError(f"MEMORY_PRESSURE_WRITE is not base64: {error}") from error
    mode = Path(path).stat().st_mode
    if stat.S_ISREG(mode):
        return _written(Path(path), [wanted] if wanted else _TRIGGERS, select.EPOLLPRI)
    if not stat.S_ISSOCK(mode):
        return _written(Path(path), [wanted] if wanted else [], select.EPOLLIN, _read_on)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as stream:
        stream.connect(path)
        if wanted:
            stream.send(wanted)
        return Alarm(path, stream.detach(), select.EPOLLIN, _read_on)


def _written(
    file: Path, wanted: Iterable[bytes], events: int, quieten: Callable[[int], object] | None = None
) -> Alarm:
    fd = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    refused: OSError | None = None
    for text in wanted:
        try:
            os.write(fd, text)
        except OSError as error:
            refused = error
        else:
            refused = None
            break
    if refused is not None:
        os.close(fd)
        raise refused
    return Alarm(str(file), fd, events, quieten)


def _event_fd(directory: Path, source: str, argument: str) -> Alarm:
    event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        fd = os.open(directory / source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = f"{event_fd} {fd} {argument}"
            (directory / _CONTROL).write_text(text, encoding="ascii")
        finally:
            os.close(fd)
    except OSError:
        os.close(event_fd)
        raise
    return Alarm(f"{directory / source} {argument}", event_fd, select.EPOLLIN, os.eventfd_read)


def _read_anew(fd: int) -> None:
    os.pread(fd, _EVENT_BYTES, 0)


def _read_on(fd: int) -> None:
    if not os.read(fd, _EVENT_BYTES):
        raise ConnectionResetError("nobody will tell any more")


# --- all of them ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Threshold:
    """Of a cgroup; it rings at so many bytes."""

    directory: Path
    fd: int
    count: int
    version: int

    def reach(self) -> int | None:
        """How many bytes are missing; None where it has been crossed or lifted."""
        file, at = _USAGE, self.count
        if self.version == 2:
            # A predecessor or successor, in the same cgroup, may have moved it.
            file, at = _USAGE_2, read_number(self.directory / _HIGH)
        usage = read_number(self.directory / file)
        return at - usage if at > usage else None


class KernelAlarms:
    """All that there are, behind one descriptor that is readable when one has rung.

    `keep_armed` may be called in another thread than the rest.
    """

    def __init__(
        self,
        root: Path = ROOT,
        cgroups: Mapping[str, str] | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._epoll = select.epoll()
        self._alarms: dict[int, Alarm] = {}
        self._thresholds: dict[Path, _Threshold] = {}
        """By cgroup that has one."""
        cgroups = own_cgroups() if cgroups is None else cgroups
        self._add(partial(pressure, PROC))
        self._add(partial(watched, environment))
        for directory in directories(root, cgroups, UNIFIED):
            self._add(partial(cgroup_events, directory))
            self._add(partial(pressure, directory / "memory.pressure"))
        found = directories(root, cgroups, "memory")
        groups = [group for group in found if self._add(partial(reclaim, group)) is not None]
        self._settled = settled(root, cgroups)
        self.own = groups[-1] if groups else self._settled
        """The innermost cgroup that can have a threshold: all that we take is charged to it."""
        is_root = bool(groups) and (groups[0] / _ONLY_IN_ROOT).exists()
        self.everybody = groups[0] if is_root else None
        """The version 1 cgroup of the whole machine, if it can be seen from here."""

    def _add(self, open_: Callable[[], Alarm]) -> Alarm | None:
        try:
            alarm = open_()
        except OSError:
            return None  # this kernel does not have it, or it is not for us: there is polling
        self._alarms[alarm.fd] = alarm
        self._epoll.register(alarm.fd, alarm.events | select.EPOLLET)
        return alarm

    @property
    def names(self) -> list[str]:
        """Of those that are set."""
        return [alarm.name for alarm in list(self._alarms.values())]

    def fileno(self) -> int:
        """To be watched for reading."""
        return self._epoll.fileno()

    def heard(self) -> None:
        """Let what rings be quiet until there is something new."""
        for fd, _ in self._epoll.poll(0):
            alarm = self._alarms.get(fd)
            try:
                if alarm is not None:
                    alarm.quieten()
            except OSError:
                self._remove(fd)

    def keep_armed(self, directories: Iterable[Path]) -> None:
        """Set thresholds of these cgroups anew where what is charged to them has moved: the kernel
        may take some hundredths of a second for each. In version 2 only our own has one."""
        wanted = {d for d in directories if d == self._settled or (d / _CONTROL).exists()}
        for directory in self._thresholds.keys() - wanted:
            self._remove(self._thresholds.pop(directory).fd)
            self._lift(directory)
        for directory in wanted:
            before = self._thresholds.get(directory)
            reach = before.reach() if before is not None else None
            if reach is not None and reach <= STEP_BYTES:
                continue
            version = 2 if directory == self._settled else 1
            usage = read_number(directory / (_USAGE if version == 1 else _USAGE_2))
            # With some room below the step: what is given back a little does not set it anew.
            count = usage + STEP_BYTES * 3 // 4
            alarm = self._add(partial(threshold if version == 1 else high, directory, count))
            if before is not None:
                del self._thresholds[directory]
                self._remove(before.fd)
            if alarm is not None:
                self._thresholds[directory] = _Threshold(directory, alarm.fd, count, version)

    def group_of(self, cgroup: Path) -> Path:
        """The cgroup whose threshold tells of what is charged to this one by us."""
        settled = self._settled
        return settled if settled is not None and cgroup == settled.parent else cgroup

    def reach(self, directory: Path) -> int | None:
        """How many bytes more may be charged to this cgroup before the kernel tells; None where it
        would not."""
        armed = self._thresholds.get(directory)
        return armed.reach() if armed is not None else None

    def _lift(self, directory: Path) -> None:
        if directory == self._settled:
            with contextlib.suppress(OSError):
                lift(directory)

    def _remove(self, fd: int) -> None:
        if (alarm := self._alarms.pop(fd, None)) is not None:
            alarm.close()

    def close(self) -> None:
        """Unset all."""
        for directory in self._thresholds:
            self._lift(directory)
        for fd in list(self._alarms):
            self._remove(fd)
        self._epoll.close()
