"""Builds our C++ code where it is needed: once for each state of its source and of the machine,
stored in a cache, and tried before it is used. A wheel for a kind of machine contains it built
(`scripts/wheel`): there nothing is compiled."""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.contract import ModelError
from models.durable import sync
from models.leftovers import Leftover, bytes_of

_TRIAL_S = 30.0
"""Seconds that a built part may take to start."""


BUNDLED = Path(__file__).parent / "native"
"""Directory of built parts in a wheel for a kind of machine."""

_BUILDING = ".build-"
_BUILDING_S = 3600.0
"""Seconds after which a build that has not ended counts as killed."""


@dataclass(frozen=True, slots=True)
class Built:
    """Program or library that is built from C++ sources.

    `sources`: files to compile; headers beside them count as well. `needs`: what to install for it,
    for people. `trial`: the command that runs the file at a path once, and exits with 0.
    `installed`: paths where a system may have it ready made.
    """

    name: str
    sources: tuple[Path, ...]
    flags: tuple[str, ...]
    libraries: tuple[str, ...]
    needs: str
    trial: Callable[[Path], tuple[str, ...]]
    installed: Callable[[], Sequence[Path]]

    def find(self, cache: Path) -> Path | None:
        """Return the file that came with the wheel, is installed or was built before, and starts;
        None if it has to be built. If there is no compiler any more, a file built by another one
        will do."""
        return next((file for file in self._candidates(cache) if self.starts(file)), None)

    def bundled(self) -> list[Path]:
        """Return the files that came with the wheel, if they were built from the present source."""
        return sorted(BUNDLED.glob(f"{self.name}-{self.source_digest()}-*"))

    def _candidates(self, cache: Path) -> Iterator[Path]:
        yield from self.bundled()
        yield from self.installed()
        yield self.path(cache)
        if not compiler_is_here():
            yield from sorted(cache.glob(f"tools/{self.name}-{self.source_digest()}-*"))

    def path(self, cache: Path) -> Path:
        """Return its path in the cache, built or not."""
        place = _digest(self._toolchain())
        return cache / "tools" / f"{self.name}-{self.source_digest()}-{place}"

    def starts(self, file: Path) -> bool:
        """Return whether the file runs on this machine."""
        return file.is_file() and self.refusal(file) is None

    def refusal(self, file: Path) -> str | None:
        """Return why the file does not run on this machine, in words; None if it does."""
        try:
            written = file.stat().st_mtime_ns
        except OSError as error:
            return str(error.strerror)
        return _refusal(self.trial(file), written)

    def build(self, cache: Path) -> Path:
        """Build it, if it does not exist; return its path. Raises `ModelError`, code `no_compiler`,
        and `OSError`."""
        if (found := self.find(cache)) is not None:
            return found
        if not compiler_is_here():
            raise ModelError(
                "no_compiler",
                f"{self.name} is not built, and there is no C++ compiler: {self.needs}",
            )
        target = self.path(cache)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=_BUILDING) as temporary:
            made = Path(temporary) / "made"
            sources = map(str, self.sources)
            command = ["g++", *self.flags, "-o", str(made), *sources, *self.libraries]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise ModelError(
                    "no_compiler",
                    f"{self.name} cannot be built ({_first_error(done.stderr)}); it needs: "
                    f"{self.needs}",
                )
            if (refusal := self.refusal(made)) is not None:
                raise ModelError(
                    "no_compiler", f"{self.name} was built and does not start: {refusal}"
                )
            sync(made)
            made.rename(target)
            sync(target.parent)
        return target

    def source_digest(self) -> str:
        """Return the digest of the source and of the compiler's options, a part of the file's
        name."""
        directories = sorted({source.parent for source in self.sources})
        headers = [header for directory in directories for header in directory.glob("*.h")]
        parts = [" ".join((*self.flags, *self.libraries)).encode()]
        parts += [file.read_bytes() for file in sorted({*self.sources, *headers})]
        return _digest(b"".join(parts))

    def _toolchain(self) -> bytes:
        """Return what else decides whether it runs: the machine, its C library, the compiler, and
        the versions of the libraries to which it is linked."""
        libraries = [name.removeprefix("-l") for name in self.libraries if name.startswith("-l")]
        asked = [("-dumpfullversion",), *((f"-print-file-name=lib{n}.so",) for n in libraries)]
        said = [_gcc(*question) for question in asked]
        named = [Path(answer).resolve().name for answer in said]
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
        return "\n".join([platform.machine(), libc, *named]).encode()


def killed_builds(cache: Path) -> list[Leftover]:
    """Return leftovers of builds that were killed. Raises `OSError`."""
    now, lock = time.time(), cache / ".lock-tools"
    return [
        Leftover(path, "left by a build that was killed", bytes_of(path), lock, certain=True)
        for path in sorted((cache / "tools").glob(f"{_BUILDING}*"))
        if now - path.stat().st_mtime >= _BUILDING_S
    ]


def compiler_is_here() -> bool:
    """Return whether there is a C++ compiler."""
    return shutil.which("g++") is not None


@functools.lru_cache(maxsize=64)
def _gcc(*arguments: str) -> str:
    try:
        done = subprocess.run(["g++", *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


@functools.lru_cache(maxsize=64)
def _refusal(command: tuple[str, ...], written: int) -> str | None:
    """Try a file that was `written` at a time, once; return why it does not run, or None."""
    del written
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TRIAL_S,
            check=False,
        )
    except OSError as error:
        return str(error.strerror)
    except subprocess.TimeoutExpired:
        return f"it did not end within {_TRIAL_S:.0f} s"
    if done.returncode == 0:
        return None
    said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return said[:300]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _first_error(said: str) -> str:
    return next((line for line in said.splitlines() if "error" in line), said.strip())
