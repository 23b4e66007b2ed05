"""SIMD library: right to the bit, never used on memory that may change, and not used where it
cannot be."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import vosk
from cgroup import MB
from engine_lines import ENGINE_LINES
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kept import kept
from places import ROOT, SUPPORT
from running import RunningServer, start_server, until

import models
from models.processor import AVX2, AVX512, processor_flags
from models.vosk.blas import UnsupportedProcessor, blas_environment
from models.vosk.prepared import PreparedModel
from models.vosk.simd import SAME_AS, SIMD, SimdLibrary, choose_variant, must_run
from models.vosk.simd.preloaded import PreloadedSimd
from supervisor.processes.environment import choose_allocator, find_jemalloc, process_environment
from supervisor.settings import Allocator

SOURCES = ROOT / "models" / "vosk" / "simd" / "source"
LIBVOSK = Path(vosk.__file__).parent / "libvosk.so"
SANITIZED = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")

runs_avx2 = pytest.mark.skipif(
    not processor_flags() >= AVX2, reason="this processor has no AVX2 with FMA"
)


class Driver:
    """tests/simd_driver.cc, in a process that answers line by line."""

    def __init__(self, program: Path, engine: Path | None, *emulator: str) -> None:
        self._process = subprocess.Popen(
            [*emulator, program, *([engine] if engine else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                **blas_environment(SAME_AS if engine else "off", processor_flags()),
                # The faults of sealed weights are ours to handle.
                "ASAN_OPTIONS": "handle_segv=0:allow_user_segv_handler=1:detect_leaks=0",
            },
        )

    def ask(self, *words: object) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the driver has ended with {self._process.wait()} (see above)"
        return answer.split()

    def close(self) -> None:
        with self._process:  # which closes both pipes and waits
            pass
        assert self._process.returncode == 0


def compiled(directory: Path) -> Path:
    program = directory / "simd-driver"
    sources = [SUPPORT / "simd_driver.cc"]
    sources += [SOURCES / f"{name}.cc" for name in ("product", "packed", "weights")]
    objects = {source: directory / f"{source.stem}.o" for source in sources}
    command = ["g++", "-std=c++17", "-Wno-psabi", *SANITIZED, f"-I{SOURCES}"]
    compilers = [
        subprocess.Popen([*command, "-c", source, "-o", to]) for source, to in objects.items()
    ]
    assert [compiler.wait() for compiler in compilers] == [0] * len(sources)
    linked = [*objects.values(), "-ldl", "-pthread"]
    subprocess.run([*command, "-o", program, *linked], check=True)
    return program


@pytest.fixture(scope="module")
def program() -> Path:
    sources = (SUPPORT / "simd_driver.cc", Path(__file__), *SOURCES.iterdir())
    return kept("simd-driver", sources, compiled) / "simd-driver"


@pytest.fixture(scope="module")
def driver(program: Path) -> Iterator[Driver]:
    """Beside the engine's own kernel, where that can run."""
    running = Driver(program, LIBVOSK if processor_flags() >= AVX2 else None)
    yield running
    running.close()


VARIANTS = ("wide", "narrow", "AVX2", "AVX-512", "NEON")
NETWORK = ((8, 768, 64), (8, 64, 768), (24, 768, 220), (23, 64, 768), (8, 2616, 64), (25, 40, 280))
"""Rows, columns and depth of the products of the embedded model."""


def compare(driver: Driver, variant: str, *case: object) -> None:
    said = driver.ask("product", variant, *case)
    if said == ["none"]:
        assert variant in ("AVX2", "AVX-512", "NEON")  # the others run everywhere
        return
    error, differ = float(said[0]), int(said[1])
    assert error <= 1.0
    assert differ in (0, -1)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", NETWORK)
def test_the_networks_products_are_the_engines_to_the_bit(
    driver: Driver, variant: str, shape: tuple[int, int, int]
) -> None:
    compare(driver, variant, *shape, 0, 3, 5, 1, 1, 0, 7)


@pytest.mark.parametrize("variant", VARIANTS)
@given(
    m=st.integers(1, 100),
    n=st.integers(1, 700),
    k=st.integers(1, 700),
    spare=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    alpha=st.sampled_from([1.0, -0.5, 0.7, 2.0]),
    beta=st.sampled_from([1.0, 0.0, 0.3, -1.0]),
    aliased=st.booleans(),
    seed=st.integers(0, 1 << 30),
)
@example(m=12, n=20, k=33, spare=(0, 0, 0), alpha=1, beta=1, aliased=False, seed=1)
@example(m=13, n=655, k=641, spare=(1, 2, 3), alpha=1, beta=0, aliased=False, seed=1)
@settings(max_examples=60, deadline=None)
def test_any_product_is_right_and_the_engines_to_the_bit(
    driver: Driver,
    variant: str,
    m: int,
    n: int,
    k: int,
    spare: tuple[int, int, int],
    alpha: float,
    beta: float,
    aliased: bool,
    seed: int,
) -> None:
    if m * n * k > 4_000_000:
        k = max(1, 4_000_000 // (m * n))
    compare(driver, variant, m, n, k, *spare, alpha, beta, int(aliased), seed)


def test_only_weights_that_are_constant_are_ever_used(program: Path) -> None:
    own = Driver(program, None)  # its process is changed for good
    with contextlib.closing(own):
        assert own.ask("weights") == ["right"]


def test_the_variant_is_one_that_the_processor_has() -> None:
    assert choose_variant(AVX512 | AVX2) == "AVX-512"
    assert choose_variant(AVX2) == "AVX2"
    assert choose_variant(frozenset({"avx2"})) is None  # without fused multiplication
    assert choose_variant(frozenset({"asimd", "fp"})) == "NEON"
    assert choose_variant(AVX512 | AVX2, "Haswell") == "AVX2"
    with pytest.raises(UnsupportedProcessor, match="AVX2 with FMA"):
        must_run(frozenset({"sse4_2"}), "auto")


def test_what_is_preloaded_adds_up() -> None:
    layers = ({"LD_PRELOAD": "user.so", "A": "1"}, {"LD_PRELOAD": "allocator.so"}, {"A": "2"})
    merged = process_environment(*layers, {"LD_PRELOAD": "ours.so"})
    assert merged == {"LD_PRELOAD": "ours.so:allocator.so:user.so", "A": "2"}


class Switched:
    """Replacement of the library: its switch, and a count of products."""

    def __init__(self) -> None:
        self.used = True
        self.products = 0

    def modelserver_simd_use(self, use: int) -> None:
        self.used = bool(use)

    def modelserver_simd_products(self) -> int:
        return self.products


def test_they_are_not_used_where_a_text_differs() -> None:
    library = Switched()
    simd = PreloadedSimd(library, "AVX2")  # type: ignore[arg-type]

    def answers() -> list[str]:
        library.products += library.used
        return ["one", "too" if library.used else "two"]

    assert simd.alike(answers) == "with it 'two' became 'too'"
    assert not library.used


def test_they_are_not_used_where_nothing_reaches_them() -> None:
    library = Switched()
    assert PreloadedSimd(library, "AVX2").alike(lambda: ["one"]) == (  # type: ignore[arg-type]
        "it computes no product of this model"
    )
    assert not library.used


EVERYTHING = (
    ENGINE_LINES
    + """
import json, sys
from pathlib import Path
from models.clips import clips_for, decode_clip
from models.vosk.model import VoskModel
directory, made, variant = json.loads(sys.argv[1])
model = VoskModel(Path(directory), {n: Path(f) for n, f in made.items()}, simd=variant)
clips = [decode_clip(clip, 16000) for clip in clips_for("ko")]
model.warm(clips)
said = [
    line for pcm in clips for alternatives, partials in ((0, True), (3, False))
    for line in engine_lines(model, pcm, 8000, alternatives=alternatives, partials=partials)
]
simd = model.loaded.simd
checked = simd is not None
counts = [simd.products, simd.restored] if simd else [0, 0]
print(json.dumps([said, checked, model.report(), *counts]))
"""
)


def answer_of(
    program: str,
    location: models.ModelLocation,
    prepared: PreparedModel,
    *asked: object,
    environment: dict[str, str],
) -> Any:
    """Return the output of a program that is started like a fork server. It gets, as JSON, the
    model's directory, the files made for it, and the other arguments."""
    made = {name: str(file) for name, file in prepared.made.items()}
    blas = blas_environment(SAME_AS, processor_flags())
    allocator = choose_allocator(Allocator.JEMALLOC, find_jemalloc(), huge_pages=False)
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps([str(location.directory), made, *asked])],
        env=process_environment(os.environ, allocator.variables, blas, environment),
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def everything_said(
    location: models.ModelLocation,
    prepared: PreparedModel,
    variant: str | None,
    environment: dict[str, str],
) -> Any:
    return answer_of(EVERYTHING, location, prepared, variant, environment=environment)


@runs_avx2
def test_everything_said_is_the_same(
    cache: Path, embedded: models.ModelLocation, prepared_embedded: PreparedModel
) -> None:
    simd = SimdLibrary(SIMD.build(cache), must_run(processor_flags(), "auto"))
    without, checked, report, _, _ = everything_said(embedded, prepared_embedded, None, {})
    assert not checked
    assert report["details"]["simd"] == "engine"
    ours, checked, report, products, restored = everything_said(
        embedded, prepared_embedded, simd.variant, dict(simd.environment)
    )
    assert len(without) > 100
    assert ours == without
    assert checked
    assert report["details"]["simd"] == f"packed, {simd.variant}"
    assert 10 * MB < report["details"]["packed_bytes"] < 25 * MB
    assert products > 1000
    assert report["details"]["aside_bytes"] > 0.9 * report["details"]["packed_bytes"]
    assert restored == 0  # the engine's own copy is not missed


@runs_avx2
def test_a_process_that_was_started_without_them_says_so(
    small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    _, _, report, _, _ = everything_said(small, prepared_small, "AVX2", {})
    assert report["details"]["simd"] == "engine"
    assert report["details"]["not_packed"] == "this process was started without it"


@runs_avx2
def test_a_process_that_uses_the_engine_by_itself_is_left_alone(cache: Path) -> None:
    """Start another program with our library preloaded: it finds the engine's own functions."""
    simd = SimdLibrary(SIMD.build(cache), must_run(processor_flags(), "auto"))
    program = f"""
import ctypes
engine = ctypes.CDLL("{LIBVOSK}")
ours = ctypes.CDLL(None)
ones = (ctypes.c_float * 4)(1, 2, 3, 4)
for library in (engine, ours):
    result = (ctypes.c_float * 4)()
    library.cblas_sgemm(101, 111, 112, 2, 2, 2, ctypes.c_float(1), ones, 2, ones, 2,
                        ctypes.c_float(0), result, 2)
    assert list(result) == [5, 11, 11, 25], list(result)
"""
    done = subprocess.run(
        [sys.executable, "-c", program.replace("(engine, ours)", "(engine,)")],
        env=process_environment(os.environ, simd.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def prepared_server(
    tmp_path: Path, small: models.ModelLocation, prepared_small: PreparedModel
) -> Iterator[RunningServer]:
    with small_server(tmp_path, small, prepared_small) as server:
        server.wait_whole()
        yield server


def small_server(
    directory: Path, small: models.ModelLocation, prepared: PreparedModel, **given: str
) -> Any:
    """Start a server with a small prepared model."""
    given = {"MODELSERVER_PREPARED_DIR": str(prepared.directory.parent)} | given
    return start_server(directory, "--model", str(small.directory), **given)


@runs_avx2
def test_the_server_names_what_it_uses(
    prepared_server: RunningServer, wav_clips: list[bytes]
) -> None:
    in_use = f"packed, {choose_variant(processor_flags())}"
    (loaded,) = prepared_server.events("model.loaded")
    assert loaded["details"]["simd"] == in_use
    assert loaded["details"]["blas_kernel"] == "Haswell"
    assert prepared_server.health()["models"][0]["details"]["simd"] == in_use
    metrics = prepared_server.ask_admin("GET", "/metrics")[1].decode()
    (info,) = re.findall(r"modelserver_model_info\{(.*)\}", metrics)
    assert info.startswith('engine="vosk",form="prepared-simd",model=')
    assert prepared_server.convert(wav_clips[0]).status == 200


@runs_avx2
def test_workers_share_what_is_packed(prepared_server: RunningServer) -> None:
    (loaded,) = prepared_server.events("model.loaded")
    before = [growth(worker.pid) for worker in prepared_server.workers()]
    assert max(before) < loaded["details"]["packed_bytes"] / 2


def growth(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    private = [line.split() for line in rollup.splitlines() if line.startswith("Private_Dirty")]
    return sum(int(kilobytes) * 1024 for _, kilobytes, _ in private)


@runs_avx2
def test_a_worker_that_crashes_is_still_a_crash(
    prepared_server: RunningServer, wav_clips: list[bytes]
) -> None:
    victim = prepared_server.workers()[0].pid
    os.kill(victim, signal.SIGSEGV)
    exited = prepared_server.wait_event("worker.exited", pid=victim)
    assert (exited["cause"], exited["signal"]) == ("crash", signal.SIGSEGV)
    assert prepared_server.convert(wav_clips[0]).status == 200


def test_off_is_the_engines_own(
    tmp_path: Path, small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    with small_server(
        tmp_path, small, prepared_small, MODELSERVER_ENGINES_VOSK_SIMD="off"
    ) as server:
        server.wait_ready()
        (loaded,) = server.events("model.loaded")
        assert loaded["details"]["simd"] == "engine"
        assert "not_packed" not in loaded


@pytest.fixture
def without_compiler(tmp_path: Path, prepared_small: PreparedModel) -> dict[str, str]:
    """Settings of a server that finds no C++ compiler, and nothing that was built before."""
    store = tmp_path / "prepared"
    shutil.copytree(prepared_small.directory, store / prepared_small.directory.name, symlinks=True)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    return {"PATH": str(programs), "MODELSERVER_PREPARED_DIR": str(store)}


@runs_avx2
def test_without_a_compiler_the_server_says_once_what_it_misses(
    tmp_path: Path,
    small: models.ModelLocation,
    prepared_small: PreparedModel,
    without_compiler: dict[str, str],
    wav_clips: list[bytes],
) -> None:
    with small_server(tmp_path, small, prepared_small, **without_compiler) as server:
        server.wait_ready()
        assert server.convert(wav_clips[0]).status == 200
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(server.events("model.loaded")) == 2)
        (missing,) = server.events("requirement.supply_failed")
        assert "apt-get install g++" in missing["reason"]
        assert "slower" in missing["consequence"]


@runs_avx2
def test_asked_for_by_name_they_must_be_there(
    tmp_path: Path,
    small: models.ModelLocation,
    prepared_small: PreparedModel,
    without_compiler: dict[str, str],
) -> None:
    with small_server(
        tmp_path, small, prepared_small, MODELSERVER_ENGINES_VOSK_SIMD="on", **without_compiler
    ) as server:
        until(lambda: "simd = on" in server.ask("/readyz").body.decode(), 30)
        assert server.ask("/readyz").status == 503
