"""Commands that the program prints about a missing extra work in the installation that prints
them."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from models.extras import NOTE, how_to_install
from modelserver.extras import how_to_install_tools


@pytest.mark.quick
def test_an_environment_with_pip_uses_its_own() -> None:
    assert how_to_install("onnx") == (
        f"{shlex.quote(sys.executable)} -m pip install 'modelserver[onnx]'"
    )


def test_an_environment_without_pip_is_one_of_uv(tmp_path: Path) -> None:
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin/python"
    said = "import runpy, sys; print(runpy.run_path(sys.argv[1])['how_to_install']('onnx'))"
    done = subprocess.run(
        [python, "-c", said, ROOT / "models/extras.py"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"uv pip install --python {python} 'modelserver[onnx]'"


@pytest.mark.quick
def test_an_environment_of_pipx_is_changed_by_pipx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "modelserver"))
    (tmp_path / "modelserver").mkdir()
    (tmp_path / "modelserver/pipx_metadata.json").write_text("{}")
    assert how_to_install("onnx") == "pipx runpip modelserver install 'modelserver[onnx]'"


@pytest.mark.quick
def test_who_made_the_installation_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / NOTE).parent.mkdir(parents=True)
    (tmp_path / NOTE).write_text("sudo make install EXTRAS=ko,{extra} in a checkout\n")
    assert how_to_install("onnx") == "sudo make install EXTRAS=ko,onnx in a checkout"
    assert "tools-env/bin/pip install . './tools[ray]'" in how_to_install_tools("ray")
