"""Safe loading: sherpa-onnx ends the process that gives it a wrong file, and writes the reason.

So a model is first loaded in a child process, which may end; what it wrote becomes the error. Both
loads write to a file in memory instead of the server's output.
"""

import contextlib
import ctypes
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from models.contract import ModelError
from models.sherpa.layout import Layout
from models.sherpa.metadata import read_metadata
from models.sherpa.tokens import read_tokens

_T = TypeVar("_T")

_SAID_MOST = 100_000
_LINE_MOST = 300
_FAILED = 3
"""Exit status of the child where loading raised an exception."""
_WHERE = re.compile(r"^\S+:\w+:\d+ ")
"""Beginning of the library's lines: the position in its source."""
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


class Loadable(Protocol):
    """Model whose directory is recognised."""

    @property
    def networks(self) -> tuple[Path, ...]:
        """Networks that are loaded."""
        ...

    @property
    def kind(self) -> "_Kind":
        """Family of models to which it belongs."""
        ...


class _Kind(Protocol):
    @property
    def name(self) -> str: ...


def load_safely(
    layout: Loadable, load: Callable[[], _T], try_out: Callable[[_T], object] = lambda _: None
) -> _T:
    """Return the result of `load`, which is first called and tried out in a child process.

    The child has ended before the load of this process begins, so that both together need no more
    memory than one. Raises `ModelError` with the library's last line if the child fails.
    """
    _load_in_child(layout, load, try_out)
    before = threads()
    with _output_caught():
        try:
            loaded = load()
        except Exception as error:
            raise _invalid(layout, _in_a_line(error)) from error
    if (now := threads()) > before:
        raise ModelError(
            "model_invalid",
            f"{_name(layout)} cannot be served: it has {now - before} threads of its own, which "
            "forked workers would not have",
        )
    return loaded


def threads() -> int:
    """Return the number of this process's threads, as the kernel counts them."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def _load_in_child(
    layout: Loadable, load: Callable[[], _T], try_out: Callable[[_T], object]
) -> None:
    parent = os.getpid()
    with _memory_file() as output:
        child = os.fork()
        if child == 0:
            status = _FAILED
            try:
                _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() == parent:
                    for standard in (1, 2):
                        os.dup2(output, standard)
                    try_out(load())
                    status = 0
            except BaseException as error:  # noqa: BLE001 - it must not run its parent's code
                os.write(output, f"\n{_in_a_line(error)}".encode("utf-8", "replace"))
            finally:
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        status = os.waitstatus_to_exitcode(ended)
        if status == 0:
            return
        said = _written(output)
    if status == -signal.SIGKILL:
        said = "killed, as the kernel does where memory runs out"
    elif status < 0 and not said:
        said = f"killed by {signal.Signals(-status).name}"
    raise _invalid(layout, said or f"exit status {status}")


@contextlib.contextmanager
def _output_caught() -> Iterator[None]:
    """Redirect this process's standard output and error into a file in memory."""
    with _memory_file() as output:
        kept = [os.dup(standard) for standard in (1, 2)]
        try:
            for standard in (1, 2):
                os.dup2(output, standard)
            yield
        finally:
            _libc.fflush(None)  # buffered output of C code
            for standard, descriptor in zip((1, 2), kept, strict=True):
                os.dup2(descriptor, standard)
                os.close(descriptor)


@contextlib.contextmanager
def _memory_file() -> Iterator[int]:
    descriptor = os.memfd_create("sherpa-onnx")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _written(output: int) -> str:
    """Return the last meaningful line that the library wrote."""
    size = os.fstat(output).st_size
    text = os.pread(output, _SAID_MOST, max(0, size - _SAID_MOST)).decode("utf-8", "replace")
    lines = [_WHERE.sub("", line).strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")


def _in_a_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _name(layout: Loadable) -> str:
    files = ", ".join(file.name for file in layout.networks)
    return f"{layout.networks[0].parent}: {files} ({layout.kind.name})"


def _invalid(layout: Loadable, reason: str) -> ModelError:
    plain = "".join(letter if letter.isprintable() else " " for letter in reason[:_LINE_MOST])
    return ModelError("model_invalid", f"{_name(layout)} cannot be loaded: {plain}")


_FEWEST = 0.9
"""Share of a model's tokens that have to be in its file: some models have more than they use."""
_UNCHECKED = frozenset(("canary", "cohere", "moonshine", "moonshine_v2"))
"""Kinds of which not every token is in the file."""


def check_tokens(layout: Layout) -> None:
    """Check that the file of tokens has the library's form, and belongs to the model.

    A missing token would only be noticed when it is recognised. Raises `ModelError`.
    """
    tokens = layout.files.get("tokens")
    if tokens is None:
        return
    numbers = {number for _, number in read_tokens(tokens)}
    size = _vocabulary_size(layout)
    known = sum(number < size for number in numbers)
    if layout.kind.name not in _UNCHECKED and known < _FEWEST * size:
        raise ModelError(
            "model_invalid",
            f"{tokens} is not the file of tokens of {layout.networks[0].name}: it has {known} of "
            f"the model's {size} tokens",
        )


def _vocabulary_size(layout: Layout) -> int:
    """Return the vocabulary size by the metadata, which for a transducer from icefall is the
    decoder's; 0 if it is not in there. Of Whisper's tokens those before the end of a text have to
    be there."""
    sizes = [layout.metadata.get("eot" if layout.kind.name == "whisper" else "vocab_size", "")]
    if layout.kind.transducer:
        sizes.append(read_metadata(layout.files["decoder"]).get("vocab_size", ""))
    return next((int(size) for size in sizes if re.fullmatch(r"[0-9]{1,7}", size)), 0)
