"""Limits other than memory on this process and its children, checked before a model is loaded:
without enough threads or descriptors the engines' libraries may hang without a message."""

import resource

from modelserver.serving.selection import Choice
from supervisor import counted, in_units, read_processes, read_processes_of_user

_LIBRARIES_BYTES = 900 * 1024 * 1024
"""Address space beside the model's: libraries, their buffers, the allocator's arenas."""
_THREADS = 6
"""Threads of the supervisor, and those that loading starts for a while."""


def not_allowed(choice: Choice, workers: int) -> str | None:
    """Return why it could not be loaded, in words that say what to change; None if it could."""
    held = choice.loading_bytes + _LIBRARIES_BYTES
    for which, name, needed in (
        (resource.RLIMIT_AS, "ulimit -v", held + choice.prediction.mapped),
        (resource.RLIMIT_DATA, "ulimit -d", held),
    ):
        soft, _ = resource.getrlimit(which)
        if soft != resource.RLIM_INFINITY and soft < needed:
            return (
                f"a process may have {in_units(soft)} of addresses ({name}), and "
                f"{choice.location.name} needs {in_units(needed)}: memory is bounded "
                "by memory.limit, not by that"
            )
    wanted = workers + 1 + _THREADS
    for left, name in (
        (read_processes(), "pids.max of its cgroup"),
        (read_processes_of_user(), "ulimit -u, which counts all of this user's"),
    ):
        if left is not None and left.free < wanted:
            return (
                f"only {left.free} of the processes and threads are left ({name}), and "
                f"{counted(workers, 'worker')} and the fork server need {wanted}"
            )
    return None
