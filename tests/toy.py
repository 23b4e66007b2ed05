"""A toy model for tests of the supervisor: it does what each request tells it to."""

import contextlib
import ctypes
import mmap
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from typing import Any


class Toy:
    """`do` in a request says what happens in its run."""

    def __init__(self, greeting: str) -> None:
        self.greeting = greeting
        self.loaded_by = os.getpid()
        self.warm_count = 0
        self.hoard: list[bytearray] = []

    def warm(self) -> None:
        self.warm_count += 1

    def report(self) -> dict[str, Any]:
        return {"greeting": self.greeting}

    def run(self, request: dict[str, Any], spool: Any) -> Generator[Any, None, Any]:
        yield
        match request["do"]:
            case "echo":
                data = spool.read() if spool is not None else b""
                return {
                    "pid": os.getpid(),
                    "bytes": len(data),
                    "head": data[:8],
                    "greeting": self.greeting,
                    "loaded_by": self.loaded_by,
                    "warm_count": self.warm_count,
                }
            case "steps":
                for step in range(request["count"]):
                    time.sleep(request.get("step_s", 0.01))
                    yield {"step": step, "pid": os.getpid()}
                return {"pid": os.getpid()}
            case "until":
                while not os.path.exists(request["file"]):
                    time.sleep(0.01)
                    yield
                return {"pid": os.getpid()}
            case "once":
                # Fails in its own way the first time, works the second: `marker` remembers.
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(request["marker"], os.O_CREAT | os.O_EXCL))
                    if request["how"] == "grow":
                        self.hoard.append(touched(request["bytes"]))
                        time.sleep(request.get("then_s", 0))
                    else:
                        _end(request["how"])
                    yield
                return {"pid": os.getpid()}
            case "end":
                _end(request["how"])
                yield
                return None
            case "raise":
                raise ValueError("a bug in the model")
            case "refuse":
                from supervisor import JobError

                raise JobError("no_thanks", "this is refused")
            case "forbidden":
                return _FORBIDDEN[request["what"]](request)
            case "huge":
                return 1 << 70  # MessagePack carries 64 bits
            case "talk":
                for step in range(request["count"]):
                    yield step
                _end(request["how"])
            case "share":
                # Memory that is anonymous and shared: of no file, and in nobody's RssAnon.
                block = mmap.mmap(-1, request["bytes"])
                for at in range(0, request["bytes"], mmap.PAGESIZE):
                    block[at] = 1
                self.hoard.append(block)
                until = time.monotonic() + request["s"]
                while time.monotonic() < until:
                    time.sleep(0.01)
                    yield
                return {"pid": os.getpid()}
            case "long":
                return {"text": "x" * request["length"]}
            case "grow":
                self.hoard.append(touched(request["bytes"]))
                return {"pid": os.getpid()}
            case "rewrite":
                for block in self.hoard:
                    block[::4096] = b"y" * len(block[::4096])
                return {"pid": os.getpid()}
            case "wander":
                # Reads pages of a file here and there, as a decoder does in a mapped graph.
                with open(request["file"], "rb") as file:
                    view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
                view.madvise(mmap.MADV_RANDOM)
                pages, at, until = len(view) // mmap.PAGESIZE, 1, time.monotonic() + request["s"]
                while time.monotonic() < until:
                    for _ in range(200):
                        at = (at * 48271) % 2147483647
                        view[at % pages * mmap.PAGESIZE]
                    yield
                return {"pid": os.getpid()}
            case "leak":
                # In steps of a megabyte, at `rate` bytes a second or as fast as it goes.
                started, leaked = time.monotonic(), 0
                while leaked < request["bytes"]:
                    self.hoard.append(touched(1 << 20))
                    leaked += 1 << 20
                    if rate := request.get("rate"):
                        time.sleep(max(0.0, started + leaked / rate - time.monotonic()))
                    yield
                return {"pid": os.getpid(), "leaked": leaked}
            case other:
                raise AssertionError(other)

    def open(self, request: dict[str, Any], before: float, mark: Any) -> "ToyStream":
        if request.get("refuse"):
            from supervisor import JobError

            raise JobError("no_thanks", "this stream is refused")
        return ToyStream(before, mark, whole=bool(request.get("whole")))


class ToyStream:
    """Collects words: each is answered with what was said so far, "." settles it. One that is
    `whole` needs all its input again, and counts what it has settled in its mark."""

    def __init__(self, before: float, mark: Any, *, whole: bool) -> None:
        self.before = before
        self.mark = mark
        self.whole = whole
        self.words: list[str] = []
        self.heard = self.quietly = 0

    def feed(self, data: Any, *, quiet: bool) -> Generator[None, None, Any]:
        from supervisor import StreamAnswer

        self.heard += 1
        self.quietly += quiet
        until = time.thread_time() + data.get("spin_s", 0.0)
        while time.thread_time() < until:
            pass
        for _ in range(data.get("steps", 1)):
            time.sleep(data.get("step_s", 0.0))
            yield
        match data.get("do"):
            case "end":
                _end(data["how"])
            case "once":
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(data["marker"], os.O_CREAT | os.O_EXCL))
                    _end(data["how"])
            case "raise":
                raise ValueError("a bug in the stream")
            case "refuse":
                from supervisor import JobError

                raise JobError("no_more", "enough of it")
            case "hang":
                time.sleep(60)
        word = data["say"]
        if word == ".":
            said, self.words = " ".join(self.words), []
            final = {"final": said, "pid": os.getpid(), "before": self.before, "mark": self.mark}
            return StreamAnswer([final], not self.whole, self.heard, 1.0)
        self.words.append(word)
        partial = {"partial": " ".join(self.words), "pid": os.getpid(), "quietly": self.quietly}
        return StreamAnswer([partial], units=1.0)

    def close(self) -> None:
        self.words = []


def touched(count: int) -> bytearray:
    """So many bytes, every page of them in memory."""
    block = bytearray(count)
    block[::4096] = b"x" * len(block[::4096])
    return block


_LITTERER = """
import pathlib, sys, time
for number in range(300):
    time.sleep(0.01)
    try:
        pathlib.Path(sys.argv[1], str(number)).touch()
    except OSError:
        break
"""


def _raw(name: str, *arguments: int) -> int:
    import pyseccomp

    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    result: int = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    return ctypes.get_errno() if result < 0 else 0


_FORBIDDEN = {
    "run a program": lambda _: os.execv("/bin/true", ["true"]),
    "start a process": lambda _: os.fork(),
    "start a shell": lambda _: os.system("true"),
    "read a file": lambda _: pathlib.Path("/etc/passwd").read_text(),
    "write a file": lambda request: pathlib.Path(request["file"]).write_text("x"),
    "remove a file": lambda request: os.unlink(request["file"]),
    "connect": lambda _: socket.socket().connect(("127.0.0.1", 9)),
    "listen": lambda _: socket.socket(socket.AF_UNIX),
    "end another": lambda request: os.kill(request["pid"], signal.SIGKILL),
    "end all": lambda _: os.kill(-1, signal.SIGTERM),
    "trace another": lambda request: _raw("ptrace", 16, request["pid"], 0, 0),
    "read another's memory": lambda request: _raw("process_vm_readv", request["pid"], 0, 0, 0, 0),
    "be somebody else": lambda _: os.setuid(65534),
    "leave its namespaces": lambda _: _raw("unshare", 0x10000000),
    "load a program into the kernel": lambda _: _raw("bpf", 0, 0, 0),
    "use a ring": lambda _: _raw("io_uring_setup", 1, 0),
    "raise its own limits": lambda _: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)),
    "ask what is not known": lambda _: _raw("sync"),
    "look around": lambda _: os.stat("/etc/passwd"),
    "start a thread": lambda _: _in_a_thread(),
}
"""What a sandbox takes away, or allows."""


def _in_a_thread() -> str:
    said: list[str] = []
    thread = threading.Thread(target=said.append, args=("done",))
    thread.start()
    thread.join()
    return said[0]


def _end(how: str) -> None:
    match how:
        case "exit":
            os._exit(7)
        case signal_name:
            os.kill(os.getpid(), getattr(signal, signal_name))
            time.sleep(0.2)


def load(
    greeting: str = "hello",
    load_s: float = 0.0,
    fail: str = "",
    load_bytes: int = 0,
    born_s: float = 0.0,
    litter: bool = False,
    stays: bool = False,
    stillborn: bool = False,
    litterer: bool = False,
) -> Toy:
    if litter:
        tempfile.mkstemp()
    if litterer:  # a child goes on writing where the load has its temporary files
        script = _LITTERER
        subprocess.Popen([sys.executable, "-c", script, tempfile.mkdtemp()])
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    if stays:  # the interpreter waits for such a thread when it ends
        threading.Thread(target=time.sleep, args=(3600,)).start()
    if stillborn:
        os.register_at_fork(after_in_child=lambda: os._exit(9))
    if born_s:  # a worker takes its time before it says that it is there
        os.register_at_fork(after_in_child=lambda: time.sleep(born_s))
    time.sleep(load_s)
    memory = []
    for _ in range(load_bytes >> 20):
        memory.append(touched(1 << 20))
        time.sleep(0.001)  # no disk is faster than a gigabyte a second
    if fail == "raise":
        raise RuntimeError("the toy does not want to load")
    if fail:
        _end(fail)
    toy = Toy(greeting)
    toy.hoard += memory
    return toy
