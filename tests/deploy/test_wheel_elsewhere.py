"""The wheel on bare Debian systems that have Python and no compiler (make test-wheel)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from debian import CERTIFICATES, debian_tree, throw_away
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

CHROOT = """
mount --make-rprivate / && mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" &&
mount -t tmpfs tmpfs "$1/tmp" && exec chroot "$1" /usr/bin/env -i HOME=/root LANG=C.UTF-8 \
    PATH=/usr/bin:/bin PIP_CERT=/etc/ssl/certs/ca-certificates.crt python3 -c "$2"
"""


@pytest.mark.parametrize("suite", ["bookworm", "trixie", "forky"])
def test_it_answers_and_prepares_without_a_compiler(
    suite: str, small: models.ModelLocation, tmp_path: Path
) -> None:
    build = [sys.executable, ROOT / "scripts/wheel", "--only", "x86_64", "--out", tmp_path]
    subprocess.run(build, check=True, capture_output=True)
    tree = debian_tree("python", "python3", "python3-venv", suite=suite)
    with throw_away(tree) as root:
        shutil.copytree(tmp_path, root / "wheel")
        shutil.copytree(small.directory, root / "wheel/small")
        clip = next(clip for clip in own_clips("ko") if clip.name.startswith("ko-3"))
        shutil.copyfile(clip, root / "wheel/clip.opus")
        shutil.copyfile(CERTIFICATES, root / "etc/ssl/certs/ca-certificates.crt")
        shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
        shutil.copyfile("/etc/hosts", root / "etc/hosts")
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", CHROOT, "sh", root, STORY],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    answer, worked, prepared, said = json.loads(done.stdout.splitlines()[-1])
    assert "사회윤리" in answer["text"]
    assert worked < WORK_S
    assert prepared == 0, said
