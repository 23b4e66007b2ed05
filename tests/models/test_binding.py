"""Binding of libvosk: libraries that are preloaded into a process do not change results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from engine_lines import ENGINE_LINES

import models
from models.processor import processor_flags
from models.vosk.blas import blas_environment
from models.vosk.prepared import PreparedModel
from models.vosk.simd import SAME_AS
from supervisor import find_jemalloc

EVERYTHING = (
    ENGINE_LINES
    + """
import json, sys
from pathlib import Path
from models.clips import clips_for, decode_clip
from models.vosk.model import VoskModel
directory, made = json.loads(sys.argv[1])
model = VoskModel(Path(directory), {n: Path(f) for n, f in made.items()})
assert "unbound" not in model.report()["details"], model.report()
for clip in clips_for("ko"):
    for said in engine_lines(model, decode_clip(clip, 16000), 8000, alternatives=0, partials=True):
        print(json.dumps(said))
"""
)


def said_with(location: models.ModelLocation, prepared: PreparedModel, preload: str) -> list[str]:
    """Return all results of the engine for the bundled clips, in a process that preloads
    `preload`."""
    made = {name: str(file) for name, file in prepared.made.items()}
    blas = blas_environment(SAME_AS, processor_flags())
    done = subprocess.run(
        [sys.executable, "-P", "-c", EVERYTHING, json.dumps([str(location.directory), made])],
        env=os.environ | blas | {"LD_PRELOAD": preload},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def preloads(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Libraries of every kind: none, one without libstdc++, one that brings it, an allocator."""
    directory = tmp_path_factory.mktemp("preloads")
    source = directory / "empty.cc"
    source.write_text('extern "C" void none_of_ours() {}\n')
    for name, flags in {"c": ["-x", "c++", "-nostdlib"], "cxx": ["-Wl,--no-as-needed"]}.items():
        libraries = ["-lstdc++"] if name == "cxx" else []
        target = str(directory / f"{name}.so")
        subprocess.run(
            ["g++", "-shared", "-fPIC", *flags, "-o", target, str(source), *libraries], check=True
        )
    jemalloc = find_jemalloc()
    assert jemalloc is not None
    return ["", str(directory / "c.so"), str(directory / "cxx.so"), jemalloc]


def test_answers_do_not_depend_on_what_is_preloaded(
    embedded: models.ModelLocation, prepared_embedded: PreparedModel, preloads: list[str]
) -> None:
    said = [said_with(embedded, prepared_embedded, preload) for preload in preloads]
    assert len(said[0]) > 100
    for other in said[1:]:
        assert other == said[0]


def test_another_hash_policy_is_reported(tmp_path: Path) -> None:
    """A preloaded library that has libstdc++ inside it, say."""
    source = tmp_path / "own.cc"
    source.write_text(
        "namespace std { namespace __detail { struct _Prime_rehash_policy {"
        " unsigned long _M_next_bkt(unsigned long n) const;"
        "}; unsigned long _Prime_rehash_policy::_M_next_bkt(unsigned long n) const"
        " { return n; } } }\n"
    )
    library = tmp_path / "own.so"
    subprocess.run(
        ["g++", "-shared", "-fPIC", "-nostdlib", "-o", str(library), str(source)], check=True
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c",
         "from models.vosk.binding import bind_hash_tables; print(bind_hash_tables())"],
        env=os.environ | {"LD_PRELOAD": str(library)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )  # fmt: skip
    assert f"hash tables are those of {library}" in done.stdout
