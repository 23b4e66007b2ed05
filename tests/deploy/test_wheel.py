"""The wheel with the native parts inside (scripts/wheel): the same bytes every time, and of use
where there is no compiler."""

import hashlib
import os
import platform
import subprocess
import sys
import sysconfig
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from debian import checkout
from places import ROOT
from running import RunningServer, start_server

import models
from models.vosk.building import BUNDLED
from models.vosk.prepared.compiler import GRAPH_COMPILER
from models.vosk.simd import SIMD

NATIVE = str(BUNDLED.relative_to(ROOT))

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="what is tested runs on this machine"
)


def build(checkout: Path, out: Path, only: str = "x86_64") -> Path:
    """Return the wheel of a checkout. Parts that were compiled before, here or in an earlier run,
    are not compiled again."""
    variables = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "PYTHONPATH": ""}
    command = [sys.executable, checkout / "scripts/wheel", "--only", only, "--out", out]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and the packages of ours. Short: in a long path
    pip cannot name the interpreter in the first line of a program."""
    environment = tmp_path_factory.mktemp("env")
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    # Paths in .pth files there, such as that of this checkout, are ignored.
    packages = sysconfig.get_path("purelib")
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    (site / "packages.pth").write_text(f"{packages}\n")
    return python


@pytest.fixture
def without_compiler(tmp_path: Path, installed: Path) -> dict[str, str]:
    """Variables of a process that finds no compiler, and nothing that was built before."""
    return {
        "PATH": str(installed.parent),
        "PYTHONPATH": "",
        "MODELSERVER_CONFIG": os.devnull,
        "MODELSERVER_PREPARED_DIR": str(tmp_path / "prepared"),
    }


def modelserver(
    python: Path, *arguments: object, **variables: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELSERVER")}
    return subprocess.run(
        [python, "-P", "-m", "modelserver", *map(str, arguments)],
        env=kept | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_two_checkouts_give_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    other = build(checkout(tmp_path / "elsewhere"), tmp_path / "dist")
    assert other.name == wheel.name
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (wheel, other)]
    assert digests[0] == digests[1]


def test_it_says_where_it_runs_and_whose_code_is_in_it(wheel: Path) -> None:
    assert "-py3-none-" in wheel.name
    assert "manylinux_2_17_x86_64" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        about = archive.read(next(name for name in names if name.endswith("/WHEEL"))).decode()
        licences = [archive.read(f"{NATIVE}/LICENSE.{of}").decode() for of in ("OpenFst", "libcxx")]
        files = b"".join(archive.read(name) for name in names if name.startswith(NATIVE))
    assert "Root-Is-Purelib: false" in about
    assert "Google" in licences[0]
    assert "LLVM" in licences[1]
    for part in (SIMD, GRAPH_COMPILER):
        assert any(f"{NATIVE}/{part.name}-{part.source_digest()}-" in name for name in names)
    for here in (str(ROOT), str(Path.home() / ".cache")):
        assert here.encode() not in files


def test_the_other_wheel_has_no_native_parts_and_runs_anywhere(tmp_path: Path) -> None:
    plain = build(ROOT, tmp_path, "any")
    assert plain.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(plain) as archive:
        assert not [name for name in archive.namelist() if name.startswith(NATIVE)]


def test_a_model_is_prepared_and_served_without_a_compiler(
    installed: Path,
    tmp_path: Path,
    small: models.ModelLocation,
    without_compiler: dict[str, str],
    wav_clips: list[bytes],
) -> None:
    done = modelserver(installed, "models", "prepare", small.directory, **without_compiler)
    assert done.returncode == 0, done.stdout + done.stderr
    with served(installed, tmp_path, small, without_compiler) as server:
        server.wait_whole()
        assert server.convert(wav_clips[0]).status == 200
        (loaded,) = server.events("model.loaded")
        assert loaded["form"].startswith("prepared")
        assert loaded["details"]["search"] == "simd"
        assert loaded["details"]["simd"].startswith("packed")
        assert not server.events("requirement.built")
        assert not server.events("requirement.supply_failed")
    assert not (tmp_path / "prepared/tools").exists()


def served(
    python: Path, directory: Path, model: models.ModelLocation, variables: dict[str, str]
) -> AbstractContextManager[RunningServer]:
    return start_server(
        directory,
        python=str(python),
        program=("-P", "-m", "modelserver"),
        **variables,
        MODELSERVER_MODEL=str(model.directory),
    )


def test_a_part_of_another_source_is_not_used(
    installed: Path, without_compiler: dict[str, str]
) -> None:
    """The source may have been edited, or an installer has left an older file."""
    changed = """
import pathlib, models.vosk.simd as simd
header, nowhere = simd.SIMD.sources[0].with_name("changed.h"), pathlib.Path("/nonexistent")
print(simd.SIMD.find(nowhere))
header.write_text("// changed")
print(simd.SIMD.find(nowhere))
header.unlink()
"""
    done = subprocess.run(
        [installed, "-P", "-c", changed],
        env={**os.environ, **without_compiler},
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = done.stdout.splitlines()
    assert before.startswith(str(installed.parents[1]))
    assert after == "None"
