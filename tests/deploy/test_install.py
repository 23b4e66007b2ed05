"""`make install` and `make uninstall`, into a directory that stands for the system's root."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT


def make(target: str, root: Path, **environment: str) -> None:
    run = try_make(target, root, **environment)
    assert run.returncode == 0, run.stderr


def try_make(target: str, root: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    variables = [f"DESTDIR={root}", f"PYTHON={sys.executable}", "EXTRAS=", "PREFIX=/opt/speech"]
    return subprocess.run(
        ["make", target, *variables],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        | dict(v.split("=", 1) for v in variables)
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("there", [True, False])
def test_an_upgrade_that_cannot_download_leaves_what_is_installed(
    tmp_path: Path, there: bool
) -> None:
    installed = tmp_path / "root/opt/speech"
    if there:
        (installed / "bin").mkdir(parents=True)
        (installed / "bin/modelserver").write_text("as it was")
    run = try_make(
        "install",
        tmp_path / "root",
        PIP_CONFIG_FILE=os.devnull,
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS="",
    )
    assert run.returncode != 0
    assert installed.exists() == there
    assert not there or (installed / "bin/modelserver").read_text() == "as it was"
    assert not (tmp_path / "root/opt/speech.new").exists()


@pytest.mark.timeout(240)
def test_it_is_installed_and_uninstalled_and_leaves_what_is_the_users(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # Short: in a path of more than 125 letters pip cannot name the interpreter in the first line.
    root = tmp_path_factory.mktemp("root")
    make("install", root)
    program = root / "opt/speech/bin/modelserver"
    version_directory = (root / "opt/speech").resolve()
    assert program.read_text().startswith(f"#!/opt/{version_directory.name}/bin/python")
    assert str(root) not in (root / "opt/speech/pyvenv.cfg").read_text()
    version = subprocess.run(
        [root / "opt/speech/bin/python", "-m", "modelserver", "--version"],
        cwd=root.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.fullmatch(r"modelserver, version \d+\.\d+\.\d+", version.stdout.strip())
    unit = (root / "etc/systemd/system/modelserver.service").read_text()
    assert "ExecStart=/opt/speech/bin/modelserver serve --config /etc/modelserver.toml" in unit
    assert (root / "usr/lib/sysusers.d/modelserver.conf").is_file()
    assert (root / "var/lib/modelserver/models").is_dir()
    settings = root / "etc/modelserver.toml"
    config = subprocess.run(
        [sys.executable, "-m", "modelserver", "config", "--config", settings],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "port = 8091" in config.stdout
    installed = list((root / "opt/speech/lib").rglob("compile_graph.cc"))
    assert len(installed) == 1

    settings.write_text("port = 9000\n")
    (root / "var/lib/modelserver/models/mine").mkdir()
    make("install", root)  # again, as for an update
    assert (root / "opt/speech").resolve() != version_directory
    assert version_directory.is_dir()  # a server may still run from it
    assert settings.read_text() == "port = 9000\n"

    make("uninstall", root)
    left = sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())
    assert left == ["etc/modelserver.toml"]
    assert (root / "var/lib/modelserver/models/mine").is_dir()
    assert list((root / "opt").iterdir()) == []


@pytest.mark.parametrize("extra", ["plan", "evaluate", "ray"])
def test_an_extra_that_is_a_distribution_now_is_refused(tmp_path: Path, extra: str) -> None:
    script, extras = ROOT / "scripts" / "install", f"ko,{extra}"
    run = subprocess.run(
        [script, "install", sys.executable, extras],
        env=os.environ | {"DESTDIR": str(tmp_path / "root")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "pip install ./tools" in run.stderr
    assert not (tmp_path / "root").exists()
