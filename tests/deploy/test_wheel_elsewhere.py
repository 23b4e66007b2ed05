"""The wheel on bare Debian systems that have Python and no compiler (make test-wheel)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from debian import CERTIFICATES, checkout, debian_tree, throw_away
from places import ROOT

import models
from models.clips import own_clips

pytestmark = [pytest.mark.bare, pytest.mark.timeout(600)]

WORK_S = 60
"""Seconds of a processor that installation, start and the first answer may take, downloads left
out."""

STORY = """
import json, os, pathlib, resource, shutil, subprocess, sys, time, urllib.request
assert not shutil.which("g++") and not shutil.which("gcc")
home = pathlib.Path("/opt/speech")
subprocess.run([sys.executable, "-m", "venv", home], check=True)
wheel = next(pathlib.Path("/wheel").glob("*.whl"))
pip = [home / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
subprocess.run([*pip, f"{wheel}[ko]"], check=True)
program, log = home / "bin/modelserver", open("/tmp/log", "wb")
serve = [program, "serve", "--port", "18291", "--prepare", "never", "--workers", "1"]
server = subprocess.Popen(serve, stdout=log, stderr=log, cwd="/tmp")
request = urllib.request.Request(
    "http://127.0.0.1:18291/api/audio/convert", pathlib.Path("/wheel/clip.opus").read_bytes()
)
answer = None
while answer is None and server.poll() is None:
    try:
        answer = json.load(urllib.request.urlopen(request))
    except OSError:
        time.sleep(0.2)
server.terminate()
server.wait()
used = resource.getrusage(resource.RUSAGE_CHILDREN)
made = subprocess.run(
    [program, "models", "prepare", "/wheel/small"], capture_output=True, text=True, cwd="/tmp"
)
print(json.dumps([answer, used.ru_utime + used.ru_stime, made.returncode, made.stderr]))
"""

SERVICE = """
import json, os, pathlib, shutil, signal, subprocess, time, urllib.request
assert not shutil.which("g++") and not shutil.which("gcc")
wheel = next(pathlib.Path("/wheel").glob("*.whl"))
make = ["make", "-C", "/checkout", f"WHEEL={wheel}"]
done = subprocess.run([*make, "install"], capture_output=True, text=True)
assert done.returncode == 0, done.stdout + done.stderr
told = [line for line in done.stdout.splitlines() if line.startswith("  ")]
as_told = [line for line in told[-5:] if "su -s" not in line]
subprocess.run(["sh", "-e", "-c", "\\n".join(as_told)], check=True)
log = open("/tmp/log", "wb")
serve = "echo $$ >/tmp/pid; exec modelserver serve --port 18292 --workers 1"
command = ["su", "-s", "/bin/sh", "modelserver", "-c", serve]
server = subprocess.Popen(command, stdout=log, stderr=log)
request = urllib.request.Request(
    "http://127.0.0.1:18292/api/audio/convert", pathlib.Path("/wheel/clip.opus").read_bytes()
)
answer = None
while answer is None and server.poll() is None:
    try:
        answer = json.load(urllib.request.urlopen(request))
    except OSError:
        time.sleep(0.2)
while "event=prepare." not in pathlib.Path("/tmp/log").read_text():
    time.sleep(0.2)
os.kill(int(pathlib.Path("/tmp/pid").read_text()), signal.SIGTERM)
server.wait()
log = pathlib.Path("/tmp/log").read_text()
subprocess.run([*make, "uninstall"], check=True, capture_output=True)
left = [*pathlib.Path("/opt").iterdir(), *pathlib.Path("/usr/local/bin").iterdir()]
print(json.dumps([answer, told, log, list(map(str, left))]))
"""

CHROOT = """
mount --make-rprivate / && mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" &&
mount -t tmpfs tmpfs "$1/tmp" && exec chroot "$1" /usr/bin/env -i HOME=/root LANG=C.UTF-8 \
    PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt python3 -c "$2"
"""


def told_by(story: str, tree: Path, wheel: Path, *files: tuple[Path, str]) -> Any:
    """Run a story in a copy of the tree that has the wheel, a recording, and `files` by their
    names there; return what it prints last."""
    clip = next(clip for clip in own_clips("ko") if clip.name.startswith("ko-3"))
    given = [(wheel, "wheel"), (clip, "wheel/clip.opus"), *files]
    given += [(CERTIFICATES, "etc/ssl/certs/ca-certificates.crt")]
    given += [(Path("/etc") / name, f"etc/{name}") for name in ("resolv.conf", "hosts")]
    with throw_away(tree) as root:
        for file, there in given:
            (shutil.copytree if file.is_dir() else shutil.copyfile)(file, root / there)
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", CHROOT, "sh", root, story],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the wheel for this kind of machine."""
    directory = tmp_path_factory.mktemp("dist")
    build = [sys.executable, ROOT / "scripts/wheel", "--only", "x86_64", "--out", directory]
    subprocess.run(build, check=True, capture_output=True)
    return directory


@pytest.mark.parametrize("suite", ["bookworm", "trixie", "forky"])
def test_it_answers_and_prepares_without_a_compiler(
    suite: str, small: models.ModelLocation, wheel: Path
) -> None:
    tree = debian_tree("python", "python3", "python3-venv", suite=suite)
    answer, worked, prepared, said = told_by(STORY, tree, wheel, (small.directory, "wheel/small"))
    assert "사회윤리" in answer["text"]
    assert worked < WORK_S
    assert prepared == 0, said


def test_a_service_is_installed_from_the_wheel_without_a_compiler(
    wheel: Path, tmp_path: Path
) -> None:
    tree = debian_tree("make", "python3", "python3-venv", "make")
    source = checkout(tmp_path / "checkout")
    answer, told, log, left = told_by(SERVICE, tree, wheel, (source, "checkout"))
    assert "사회윤리" in answer["text"]
    assert any(line.startswith("  su -s /bin/sh modelserver -c") for line in told)
    assert "event=prepare.planned" in log, log
    assert "event=requirement." not in log, log
    assert left == []
