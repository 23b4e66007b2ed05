"""System packages: what `make` does if the package manager does not know an optional package."""

import os
import subprocess
from pathlib import Path

import pytest
from places import ROOT

SCRIPT = ROOT / "scripts/system-packages"
APT_GET = """#!/bin/sh
echo "$*" >> "$(dirname "$0")/asked"
case "$*" in *" install "*libfst-dev* | install*libfst-dev*) exit 100 ;; esac
"""
DPKG_QUERY = """#!/bin/sh
for package; do :; done
case $package in libfst-dev | libjemalloc2) exit 1 ;; esac
echo 'install ok installed'
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root installs packages")
def test_a_useful_package_that_is_unknown_keeps_no_other_away(tmp_path: Path) -> None:
    for name, text in (("apt-get", APT_GET), ("dpkg-query", DPKG_QUERY)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [SCRIPT, "serve"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Going on without libfst-dev" in done.stdout
    assert "Going on without libjemalloc2" not in done.stdout
    assert "--no-install-recommends libjemalloc2" in (tmp_path / "asked").read_text()


@pytest.mark.skipif(os.getuid() != 0, reason="only root installs packages")
def test_a_service_that_is_installed_is_not_enabled(tmp_path: Path) -> None:
    units = tmp_path / "units"
    for name in ("before", "after"):
        (units / f"{name}.target.wants").mkdir(parents=True)
    (units / "before.target.wants" / "mine.service").symlink_to("/mine")
    enables = f"ln -s /theirs {units}/after.target.wants/theirs.service"
    apt_get = f'#!/bin/sh\ncase "$*" in *--simulate*) ;; *" libjemalloc2"*) {enables} ;; esac\n'
    for name, text in (("apt-get", apt_get), ("dpkg-query", DPKG_QUERY)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SYSTEMD_UNITS": str(units),
    }
    done = subprocess.run(
        [SCRIPT, "serve"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "no service is started or enabled" in done.stdout
    assert [link.name for link in units.rglob("*.service")] == ["mine.service"]
