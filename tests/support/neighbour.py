"""A process that takes and releases memory on command, as another program in our cgroup."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator


class Neighbour:
    """The tests' side."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def take(self, count: int) -> None:
        """Take so many bytes more; returns when it has them."""
        self._say(str(count))

    def give_back(self) -> None:
        """Release all its memory."""
        self._say("0")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline()


@contextlib.contextmanager
def neighbour(before_exec: Callable[[], None]) -> Iterator[Neighbour]:
    """Gone at the end."""
    process = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=before_exec,
    )
    with process:
        try:
            yield Neighbour(process)
        finally:
            process.kill()


if __name__ == "__main__":
    import mmap

    held: list[mmap.mmap] = []
    for line in sys.stdin:
        if int(line) == 0:
            for block in held:
                block.close()
            held.clear()
        else:
            block = mmap.mmap(-1, int(line))
            for at in range(0, len(block), mmap.PAGESIZE):
                block[at] = 1
            held.append(block)
        print("done", flush=True)
