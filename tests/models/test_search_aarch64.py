"""The SIMD library's search beside the engine's own for aarch64, on an emulated processor (make
test-aarch64): the same to the bit, no speed."""

import filecmp
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import ROOT, SUPPORT
from test_simd import SOURCES

import models
from models.vosk.building import BUNDLED
from models.vosk.prepared import PreparedModel, compiled_graph
from models.vosk.prepared.compiler import compare, compose

pytestmark = pytest.mark.aarch64

COMPILE = ("aarch64-linux-gnu-g++", "-std=c++17", "-Wno-psabi", f"-I{SOURCES}")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine's, for that processor."""
    directory = tmp_path_factory.mktemp("engine")
    wanted = ("vosk==0.3.45", "--no-deps", "--only-binary=:all:", "--dest", str(directory))
    platform = ("--platform", "manylinux2014_aarch64")
    subprocess.run([sys.executable, "-m", "pip", "download", *platform, *wanted], check=True)
    (wheel,) = directory.glob("vosk-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        return Path(opened.extract("vosk/libvosk.so", directory))


@pytest.fixture(scope="module")
def of_the_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of the wheel, which Clang compiles: a directory."""
    directory = tmp_path_factory.mktemp("dist")
    build = (sys.executable, ROOT / "scripts/wheel", "--only", "aarch64", "--out", directory)
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(directory)
    return directory / BUNDLED.relative_to(ROOT)


@pytest.mark.timeout(600)
def test_every_token_is_the_engines_to_the_bit(
    tmp_path: Path,
    library: Path,
    of_the_wheel: Path,
    prepared_small: PreparedModel,
    clips: list[bytes],
) -> None:
    simd, trace = tmp_path / "simd.so", tmp_path / "trace.so"
    driver, samples = tmp_path / "driver", tmp_path / "samples"
    shared = ("-shared", "-fPIC", "-O3")
    for to, flags, sources in (
        (simd, (*shared, "-fvisibility=hidden"), sorted(SOURCES.glob("*.cc"))),
        (trace, shared, [SUPPORT / "search_trace.cc"]),
        (driver, (), [SUPPORT / "search_driver.cc"]),
    ):
        subprocess.run([*COMPILE, *flags, "-o", to, *sources, "-ldl"], check=True)
    samples.write_bytes(clips[0])

    def decoded(simd: Path, search: int) -> tuple[list[int], str]:
        preloaded = ("-E", f"LD_PRELOAD={trace}:{simd}")
        emulated = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", *preloaded, driver)
        asked = (library, prepared_small.directory, samples, "NEON", str(search))
        done = subprocess.run([*emulated, *asked], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        traced, said = done.stdout.splitlines()
        return json.loads(traced), json.loads(said)["text"]

    (*engines, none), text = decoded(simd, 0)
    (*ours, searched), said = decoded(simd, 1)
    assert (none, searched > 100) == (0, True)
    assert ours == engines
    assert min(ours) > 100
    assert said == text != ""
    (clang,) = of_the_wheel.glob("simd.so-*")
    assert decoded(clang, 1) == ([*ours, searched], text)


@pytest.mark.timeout(600)
def test_the_graph_compiler_of_the_wheel_makes_the_same_bytes(
    tmp_path: Path, of_the_wheel: Path, small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    (compiler,) = of_the_wheel.glob("compile-graph-*")
    compiler.chmod(0o755)
    program = tmp_path / "compile-graph"
    program.write_text(f'#!/bin/sh\nexec qemu-aarch64 -L /usr/aarch64-linux-gnu {compiler} "$@"\n')
    program.chmod(0o755)
    graphs, made = small.directory / "graph", tmp_path / "HCLG.fst"
    words = tmp_path / "words.txt"
    compiled = compose(program, graphs, made, words, 0, lambda _: None)
    here = compiled_graph(prepared_small.directory)
    assert compiled.counts.states > 1_000
    assert filecmp.cmp(made, here, shallow=False)
    assert filecmp.cmp(words, here.with_name("words.txt"), shallow=False)
    assert compare(program, graphs, here, 1000).states >= 1000
