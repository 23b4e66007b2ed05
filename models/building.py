"""Builds our C++ where it is needed: once for each state of its source, kept in a cache."""

import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from models.contract import ModelError


@dataclass(frozen=True, slots=True)
class Built:
    """Something that is made of C++ sources.

    `sources`: what is compiled; headers beside them count as well. `needs`: what to install for it,
    for a person.
    """

    name: str
    sources: tuple[Path, ...]
    flags: tuple[str, ...]
    libraries: tuple[str, ...]
    needs: str

    def path(self, cache: Path) -> Path:
        """Where it is kept, built or not."""
        return cache / "tools" / f"{self.name}-{self._digest()}"

    def build(self, cache: Path) -> Path:
        """Make it, if it is not there. Raises `ModelError`, code `no_compiler`."""
        target = self.path(cache)
        if target.is_file():
            return target
        if not compiler_is_here():
            raise ModelError(
                "no_compiler",
                f"{self.name} is not built, and there is no C++ compiler: {self.needs}",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as temporary:
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
            made.rename(target)
        return target

    def _digest(self) -> str:
        digest = hashlib.sha256(" ".join((*self.flags, *self.libraries)).encode())
        directories = sorted({source.parent for source in self.sources})
        headers = [header for directory in directories for header in directory.glob("*.h")]
        for file in sorted({*self.sources, *headers}):
            digest.update(file.read_bytes())
        return digest.hexdigest()[:16]


def compiler_is_here() -> bool:
    """There is a C++ compiler."""
    return shutil.which("g++") is not None


def _first_error(said: str) -> str:
    return next((line for line in said.splitlines() if "error" in line), said.strip())
