"""Debian as it comes, in a directory: a tree that is made once and kept, and throw-away copies."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from places import ROOT

from modelserver.settings import xdg_directory

SUITE = "bookworm"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""File of the certificates that a machine trusts; a company's proxy adds its own."""


def debian_tree(name: str, *packages: str, suite: str = SUITE) -> Path:
    """Return the smallest Debian with these packages; it is cached outside of the checkout, since
    it is slow to make."""
    cache = xdg_directory("XDG_CACHE_HOME", ".cache") / "test-trees"
    tree = cache / f"{suite}-{name}"
    if not tree.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=cache))
        include = f"--include={','.join(('ca-certificates', *packages))}"
        command = ["debootstrap", "--variant=minbase", include, suite, str(partial)]
        # Its scripts are those of every suite; it may not know the newest by name.
        command += ["", "sid"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
        partial.chmod(0o755)
        partial.rename(tree)
    return tree


@contextlib.contextmanager
def throw_away(tree: Path) -> Iterator[Path]:
    """A copy that may be written to and is gone afterwards; the tree stays as it is."""
    # An overlay cannot lie on an overlay, which a container's own files often are.
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix=".machine-") as temporary:
        upper, work, root = (Path(temporary) / name for name in ("upper", "work", "root"))
        for directory in (upper, work, root):
            directory.mkdir()
        layers = f"lowerdir={tree},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(root)], check=True)
        try:
            yield root
        finally:
            subprocess.run(["umount", "--lazy", str(root)], check=True)


def checkout(directory: Path) -> Path:
    """Copy the files that git knows of this project to `directory`: what a user would have
    cloned."""
    root = ROOT
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    ).stdout
    directory.mkdir(parents=True)
    subprocess.run(
        ["tar", "--null", "--files-from=-", "--create", "--file", os.fspath(directory / ".tar")],
        cwd=root,
        input=files,
        check=True,
    )
    subprocess.run(["tar", "xf", ".tar"], cwd=directory, check=True)
    (directory / ".tar").unlink()
    return directory
