"""An environment in which another distribution has taken the place of a package of ours."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import share_compiler
from places import ROOT

from models import ModelLocation


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A directory with our packages as a wheel puts them there, and those that they import."""
    site = tmp_path / "site"
    for name in ("models", "supervisor", "modelserver"):
        shutil.copytree(ROOT / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    return site


def command(site: Path, where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=where,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )


VERSION = ("-P", "-m", "modelserver", "--version")
DOCTOR = ("-P", "-m", "modelserver", "doctor", "--help")
"""A command that imports all packages of ours."""


def install(site: Path, distribution: str, package: str) -> None:
    """Install another distribution of that package, as pip does."""
    (site / package / "__init__.py").write_text("")
    metadata = site / f"{distribution}-4.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 4\n")
    (metadata / "top_level.txt").write_text(f"{package}\n")
    (metadata / "RECORD").write_text(f"{package}/__init__.py,,\n")


def test_all_is_well_where_they_are_ours(environment: Path, tmp_path: Path) -> None:
    done = command(environment, tmp_path, *VERSION)
    assert done.stdout.startswith("modelserver, version"), done.stderr


@pytest.mark.parametrize(
    ("distribution", "package"), [("supervisor", "supervisor"), ("models", "models")]
)
def test_another_distribution_s_package_is_named(
    environment: Path, tmp_path: Path, distribution: str, package: str
) -> None:
    install(environment, distribution, package)
    done = command(environment, tmp_path, *DOCTOR)
    assert done.returncode == 1
    assert f"the package {package!r} of this environment is also that of {distribution}" in (
        done.stderr
    )
    assert f"pip uninstall {distribution}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_that_pythonpath_has_first_is_named(environment: Path, tmp_path: Path) -> None:
    other = tmp_path / "application"
    other.mkdir()
    (other / "models.py").write_text("")
    done = command(Path(f"{other}:{environment}"), tmp_path, *DOCTOR)
    assert done.returncode == 1
    assert f"{other / 'models.py'} is found as 'models' before the one in" in done.stderr
    assert "without PYTHONPATH" in done.stderr
    assert "Traceback" not in done.stderr


def test_modules_of_the_working_directory_take_no_places(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "supervisor").mkdir()
    (tmp_path / "supervisor" / "__init__.py").write_text("raise SystemExit('a stranger')\n")
    (tmp_path / "models.py").write_text("raise SystemExit('a stranger')\n")
    done = command(environment, tmp_path, *DOCTOR[1:])
    assert done.returncode == 0, done.stderr
    assert "stranger" not in done.stderr


STRANGERS = ("models", "supervisor", "modelserver", "msgspec", "json", "click", "vosk", "signal")
COMMANDS = (
    ("serve", "--help"),
    ("transcribe", "nothing.wav", "-o", "out"),
    ("listen", "nothing.wav"),
    ("config",),
    ("models", "list"),
    ("models", "inspect", "{model}"),
    ("models", "prepare", "{model}"),
    ("models", "pull", "nothing.zip"),
    ("models", "remove", "nothing"),
    ("models", "clean"),
    ("keys", "list"),
    ("status",),
    ("upgrade",),
    ("ready",),
    ("doctor",),
    ("completion", "bash"),
    ("manual",),
)
"""Commands, each as far as it comes without a server."""


@pytest.fixture(scope="module")
def among_strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with modules of names that we import; whatever imports one leaves a file."""
    directory = tmp_path_factory.mktemp("strangers")
    for name in STRANGERS:
        said = f"import pathlib; pathlib.Path({str(directory)!r}, 'ran-{name}').touch()\n"
        (directory / f"{name}.py").write_text(said + f"raise SystemExit('stranger: {name}')\n")
    return directory


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_command_imports_from_the_working_directory(
    among_strangers: Path,
    tmp_path: Path,
    small: ModelLocation,
    cache: Path,
    arguments: tuple[str, ...],
) -> None:
    program = Path(sys.executable).parent / "modelserver"
    (tmp_path / "PREPARED_DIR").mkdir()
    share_compiler(cache, tmp_path / "PREPARED_DIR")
    given = {f"MODELSERVER_{name}": str(tmp_path / name) for name in ("MODELS_DIR", "PREPARED_DIR")}
    done = subprocess.run(
        [program, *(argument.format(model=small.directory) for argument in arguments)],
        cwd=among_strangers,
        env={**os.environ, **given, "MODELSERVER_CONFIG": os.devnull, "MODELSERVER_PORT": "9"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "stranger" not in done.stdout + done.stderr
    assert not list(among_strangers.glob("ran-*"))
    assert "Traceback" not in done.stderr
