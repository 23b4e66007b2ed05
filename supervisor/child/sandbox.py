"""The sandbox that a worker enters before its first job.

Workers decode untrusted audio with C and C++ code. An attacker who takes one over must not be able
to do more than answer that worker's own requests wrongly.

System calls are allowed, refused with EPERM, or forbidden. A forbidden call is never executed: the
kernel holds it and notifies the supervisor, which ends the worker and logs the call
(seccomp_unotify(2)).
"""

import contextlib
import ctypes
import errno
import json
import linecache
import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from supervisor.process_control import prctl

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_SECCOMP_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
"""Numbers that are the same on every architecture."""
_LANDLOCK_VERSION = 1
_CAPABILITY_VERSION = 0x20080522
_CLONE_THREAD = 0x10000
_CLONE_NEW = 0x7E020000
"""Flags that make new namespaces."""
_AT_EMPTY_PATH = 0x1000
_PR_SET_NAME, _PR_SET_VMA = 15, 0x53564D41

_ALLOWED = """
    read write readv writev pread64 preadv lseek close fstat dup dup3 fadvise64
    mmap mprotect munmap mremap brk msync mincore
    futex futex_waitv rseq set_robust_list membarrier sched_yield sched_getaffinity getcpu
    nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times getrusage
    getrandom getpid getppid gettid getuid geteuid getgid getegid sysinfo uname
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending sigaltstack restart_syscall
    exit exit_group poll ppoll select pselect6 recvmsg recvfrom sendmsg sendto
"""
_FORBIDDEN = """
    execve execveat fork vfork
    open openat openat2 creat open_by_handle_at name_to_handle_at
    unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat mkdir mkdirat rmdir
    mknod mknodat chmod fchmodat chown lchown fchownat truncate chroot pivot_root mount umount2
    move_mount open_tree fsopen fsmount fspick mount_setattr swapon swapoff quotactl acct
    socket socketpair connect bind listen accept accept4
    ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_open pidfd_getfd
    pidfd_send_signal tkill rt_sigqueueinfo rt_tgsigqueueinfo
    unshare setns setuid setgid setreuid setregid setresuid setresgid setgroups capset
    bpf perf_event_open io_uring_setup io_uring_enter io_uring_register userfaultfd
    keyctl add_key request_key init_module finit_module delete_module kexec_load kexec_file_load
    reboot ioperm iopl settimeofday clock_settime adjtimex clock_adjtime sethostname setdomainname
    personality modify_ldt fanotify_init inotify_init inotify_init1 shmget msgget semget mq_open
"""
_FCNTL_ALLOWED = (0, 1, 2, 3, 1030, 1034)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC, F_GET_SEALS."""
_F_SETFL, _O_ASYNC = 4, 0o20000
_FCNTL_FORBIDDEN = (8, 10, 15, 1024, 1026)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY: ways to have the kernel send signals."""
_MADVISE_ALLOWED = (*range(5), 8, 10, 11, 14, 15, 16, 17, 18, 19, 20, 21)
"""Advice from MADV_NORMAL to MADV_DONTNEED, MADV_FREE, and advice that concerns a program's own
pages; not MADV_REMOVE, which punches holes into shared ones, and not MADV_HWPOISON."""
_LIMITS = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_MEMLOCK: 0,
    resource.RLIMIT_MSGQUEUE: 0,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NOFILE: 64,
}


@dataclass(frozen=True, slots=True)
class Entered:
    """Measures that are in force, and why the others are missing. `listener` is a descriptor on
    which the kernel reports forbidden calls, if there is a filter."""

    in_force: list[str]
    missing: list[str]
    listener: int | None


ESSENTIAL = "seccomp"
"""Measure without which forbidden calls are executed."""


def try_sandbox(nowhere: int | None = None) -> tuple[list[str], list[str]]:
    """Return the measures that would be in force, and those that would be missing with the reason,
    as tried by a child process. Call it once before workers are forked: that loads the filter's
    library, too."""
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        import pyseccomp  # noqa: F401 - found, and inherited by the fork
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            entered = enter(nowhere)
            os.write(writer, json.dumps([entered.in_force, entered.missing]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        text = told.read()
    os.waitpid(pid, 0)
    if not text:
        return [], ["the child process that tried to enter the sandbox was ended"]
    in_force, missing = json.loads(text)
    return in_force, missing


def enter(nowhere: int | None = None) -> Entered:
    """Sandbox this process and all its threads, permanently. `nowhere` is a descriptor of an empty
    or removed directory, which becomes the root directory; it is closed."""
    linecache.updatecache = lambda *_: []  # so that a traceback does not try to read sources
    in_force, missing = [], []
    program: _Program | None = None
    try:
        program = _filter()
    except (ImportError, OSError, RuntimeError) as error:
        missing.append(f"{ESSENTIAL}: {error}")
    steps = dict(_STEPS)
    if nowhere is not None:
        steps = {"no_root": lambda: _no_root(nowhere)} | steps
    for name, step in steps.items():
        try:
            step()
        except (OSError, ValueError) as error:
            missing.append(f"{name}: {error}")
        else:
            in_force.append(name)
    listener = None
    if program is not None:
        try:
            listener = _load(program)
            in_force.append(ESSENTIAL)
        except OSError as error:
            missing.append(f"{ESSENTIAL}: {error}")
    return Entered(in_force, missing, listener)


def _no_root(nowhere: int) -> None:
    """Change the root directory, so that no path leads anywhere: a system call filter cannot see
    the path of newfstatat(2)."""
    try:
        os.fchdir(nowhere)
        os.chroot(".")
    finally:
        os.close(nowhere)


def _no_new_privileges() -> None:
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _no_capabilities() -> None:
    """Drop all capabilities (capset(2)), so that root has no privileges left."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _not_dumpable() -> None:
    """Make this process not dumpable, if it is root: the supervisor of an ordinary user could not
    read its memory use any more."""
    if os.geteuid() != 0:
        raise PermissionError("the supervisor, which is not root, has to read its memory use")
    prctl(_PR_SET_DUMPABLE, 0)


def _limit() -> None:
    for which, most in _LIMITS.items():
        hard = resource.getrlimit(which)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (least, least))


def _no_files() -> None:
    """Forbid files with Landlock (landlock(7)), by a ruleset that handles every access and allows
    none: to files, from version 4 on to TCP ports, and from version 6 on to abstract sockets and
    signals of other processes."""
    version = _system_call(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    # Accesses to files by version: 13 bits in the first, then refer, truncate, and ioctl in 5.
    bits = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    fields = [(1 << bits) - 1, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0]
    size = 8 * (1 + (version >= 4) + (version >= 6))
    attribute = (ctypes.c_uint64 * 3)(*fields)
    rules = _system_call(_LANDLOCK_CREATE_RULESET, attribute, size, 0)
    try:
        _system_call(_LANDLOCK_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


_STEPS = {
    "no_new_privs": _no_new_privileges,
    "rlimits": _limit,
    "landlock": _no_files,
    "not dumpable": _not_dumpable,
    "capabilities": _no_capabilities,
}


def _filter() -> "_Program":
    """Build the system call filter of this process, which may send signals to itself."""
    import pyseccomp as seccomp

    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    only_own = seccomp.Arg(0, seccomp.EQ, os.getpid())
    for action, names in ((seccomp.ALLOW, _ALLOWED), (seccomp.NOTIFY, _FORBIDDEN)):
        for name in names.split():
            _add(rules, action, name)
    # A program aborts by sending itself a signal.
    not_own = seccomp.Arg(0, seccomp.NE, os.getpid())
    for name in ("kill", "tgkill"):
        _add(rules, seccomp.ALLOW, name, only_own)
        _add(rules, seccomp.NOTIFY, name, not_own)
    _by_argument(rules, "fcntl", 1, _FCNTL_ALLOWED, _FCNTL_FORBIDDEN)
    set_flags = seccomp.Arg(1, seccomp.EQ, _F_SETFL)
    not_async = seccomp.Arg(2, seccomp.MASKED_EQ, _O_ASYNC, 0)
    _add(rules, seccomp.ALLOW, "fcntl", set_flags, not_async)
    _by_argument(rules, "madvise", 2, _MADVISE_ALLOWED, ())
    for option in (_PR_SET_NAME, _PR_SET_VMA):
        _add(rules, seccomp.ALLOW, "prctl", seccomp.Arg(0, seccomp.EQ, option))
    # The C library asks for the size of an open file with this.
    empty_path = seccomp.Arg(3, seccomp.MASKED_EQ, _AT_EMPTY_PATH, _AT_EMPTY_PATH)
    _add(rules, seccomp.ALLOW, "newfstatat", empty_path)
    _add(rules, seccomp.ALLOW, "prlimit64", seccomp.Arg(2, seccomp.EQ, 0))
    # Threads are allowed, since a decoder may want them; processes are not. A filter cannot see the
    # arguments of clone3; without clone3 the C library uses clone.
    looked_at = _CLONE_THREAD | _CLONE_NEW
    _add(rules, seccomp.ALLOW, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, looked_at, _CLONE_THREAD))
    process = seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_THREAD, 0)
    _add(rules, seccomp.NOTIFY, "clone", process)
    _add(rules, seccomp.ERRNO(errno.ENOSYS), "clone3")
    with os.fdopen(os.memfd_create("rules"), "rb") as file:
        rules.export_bpf(file)
        file.seek(0)
        instructions = file.read()
    return _Program(len(instructions) // 8, instructions)  # each of 8 bytes


def _load(program: "_Program") -> int:
    """Load the filter; return the descriptor on which the kernel reports forbidden calls."""
    import pyseccomp as seccomp

    number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, "seccomp")
    return _system_call(number, _SECCOMP_SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))


def _by_argument(
    rules: Any, name: str, which: int, allowed: Sequence[int], forbidden: Sequence[int]
) -> None:
    """Allow or forbid a call by the value of one argument; any other value is refused."""
    import pyseccomp as seccomp

    for action, values in ((seccomp.ALLOW, allowed), (seccomp.NOTIFY, forbidden)):
        for value in values:
            _add(rules, action, name, seccomp.Arg(which, seccomp.EQ, value))


def _add(rules: Any, action: int, name: str, *arguments: Any) -> None:
    with contextlib.suppress(OSError, ValueError):  # this architecture has no such call
        rules.add_rule(action, name, *arguments)


class _Program(ctypes.Structure):
    """Structure `sock_fprog` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _system_call(number: int, *arguments: Any) -> int:
    """Make a system call that the C library has no function for. Raises `OSError`."""
    result: int = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
