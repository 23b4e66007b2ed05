"""The search of the SIMD library: every token, link and cost is the engine's, to the bit."""

import math
import mmap
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from kept import kept
from places import ROOT, SUPPORT
from test_simd import LIBVOSK, SOURCES, answer_of, runs_avx2

import models
from models.processor import processor_flags
from models.vosk.building import BUNDLED
from models.vosk.graph_file import read_graph_header
from models.vosk.prepared import PreparedModel, compiled_graph
from models.vosk.simd import SIMD, SimdLibrary, must_run
from supervisor.processes.environment import process_environment

SEARCHES = """
import ctypes, json, random, sys
from pathlib import Path
from models import PROFILES, RecognitionOptions, run_steps
from models.clips import clips_for, decode_clip
from models.vosk.model import VoskModel

directory, made, variant, search = json.loads(sys.argv[1])
trace = ctypes.CDLL(None)
trace.search_trace_sum.restype = ctypes.c_uint64
model = VoskModel(Path(directory), {n: Path(f) for n, f in made.items()}, simd=variant)
model.loaded.simd.search(use=search)
clips = [decode_clip(clip, 16000) for clip in clips_for("ko")]
clips.append(random.Random(1).randbytes(16000 * 2 * 6))  # noise: as many states as may be active
clips.append(bytes(16000 * 2 * 3))
clips.append(clips[0][:1600])
found = []
for profile in PROFILES:
    for clip in clips:
        recognizer = model.recognizer(RecognitionOptions(words=True, profile=profile))
        for at in range(0, len(clip), 8000):
            run_steps(recognizer.accept(clip[at : at + 8000]))
            recognizer.partial()
        run_steps(recognizer.finish())
        recognizer.close()
        found.append([profile, trace.search_trace_sum()])
counts = [getattr(trace, f"search_trace_{name}")() for name in ("tokens", "links", "pruned")]
print(json.dumps([found, counts, model.loaded.simd.searched, model.report()["details"]["search"]]))
"""


@pytest.fixture(scope="module")
def simd(cache: Path) -> SimdLibrary:
    return SimdLibrary(SIMD.build(cache), must_run(processor_flags(), "auto"))


@pytest.fixture(scope="module")
def trace() -> Path:
    source, name = SUPPORT / "search_trace.cc", "search-trace.so"
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{SOURCES}", source, "-ldl"]

    def make(directory: Path) -> None:
        subprocess.run([*command, "-o", directory / name], check=True)

    return kept("search-trace", (source, Path(__file__), *SOURCES.iterdir()), make) / name


def searched(
    location: models.ModelLocation,
    prepared: PreparedModel,
    simd: SimdLibrary,
    trace: Path,
    *,
    search: bool,
) -> Any:
    preloaded = {"LD_PRELOAD": f"{trace}:{simd.library}"}
    asked = (simd.variant, search)
    return answer_of(SEARCHES, location, prepared, *asked, environment=preloaded)


@runs_avx2
@pytest.mark.parametrize("size", ["small", "embedded"])
def test_every_token_is_the_engines_to_the_bit(
    request: pytest.FixtureRequest, simd: SimdLibrary, trace: Path, size: str
) -> None:
    location = request.getfixturevalue(size)
    prepared = request.getfixturevalue(f"prepared_{size}")
    engines, engines_counts, none, who = searched(location, prepared, simd, trace, search=False)
    assert (none, who) == (0, "engine")
    ours, counts, frames, who = searched(location, prepared, simd, trace, search=True)
    assert who == "simd"
    assert frames > 1000
    assert counts == engines_counts
    assert min(counts) > 100
    assert ours == engines
    assert len({total for _, total in ours}) == len(ours)  # the sum over all searches


@runs_avx2
def test_the_library_of_the_wheel_searches_to_the_bit_as_well(
    tmp_path: Path,
    small: models.ModelLocation,
    prepared_small: PreparedModel,
    simd: SimdLibrary,
    trace: Path,
) -> None:
    """Clang compiles it, and GCC the one that is built on a machine."""
    build = (sys.executable, ROOT / "scripts/wheel", "--only", "x86_64", "--out", tmp_path)
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        within = f"{BUNDLED.relative_to(ROOT)}/simd.so-"
        (name,) = (name for name in archive.namelist() if name.startswith(within))
        bundled = SimdLibrary(Path(archive.extract(name, tmp_path)), simd.variant)
    engines, *_ = searched(small, prepared_small, simd, trace, search=False)
    ours, _, frames, who = searched(small, prepared_small, bundled, trace, search=True)
    assert (who, frames > 1000) == ("simd", True)
    assert ours == engines


@runs_avx2
def test_an_arc_whose_weight_is_no_number_leads_nowhere_as_in_the_engine(
    small: models.ModelLocation, copied: PreparedModel, simd: SimdLibrary, trace: Path
) -> None:
    sound = searched(small, copied, simd, trace, search=True)[0]
    header = read_graph_header(compiled_graph(copied.directory))
    assert header is not None
    with compiled_graph(copied.directory).open("r+b") as file, mmap.mmap(file.fileno(), 0) as graph:
        arcs = memoryview(graph)[header.arcs_at : header.file_bytes]
        inputs, weights = arcs.cast("i")[0::4].tolist(), arcs.cast("f")
        silent = [number for number, label in enumerate(inputs) if label == 0]
        for number in silent[::20]:
            weights[4 * number + 2] = math.nan
        weights.release()
        arcs.release()
    engines, engines_counts, *_ = searched(small, copied, simd, trace, search=False)
    ours, counts, frames, _ = searched(small, copied, simd, trace, search=True)
    assert frames > 1000
    assert (ours, counts) == (engines, engines_counts)
    assert ours != sound


@runs_avx2
def test_another_build_of_the_engine_searches_by_itself(
    tmp_path: Path, simd: SimdLibrary, trace: Path
) -> None:
    """Use a build whose data may be laid out otherwise."""
    other = tmp_path / "libvosk.so"
    shutil.copy(LIBVOSK, other)
    build = bytes.fromhex("2deead3f50350768e28bb3ef53d61738857890e3")
    content = other.read_bytes()
    assert content.count(build) == 1
    other.write_bytes(content.replace(build, build[::-1]))
    program = """
import ctypes, sys
from pathlib import Path
from models.vosk.simd.preloaded import PreloadedSimd
engine = ctypes.CDLL(sys.argv[1])
simd = PreloadedSimd.attach(Path(sys.argv[1]), sys.argv[2])
print(simd.searches)
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", program, library, simd.variant],
            env=process_environment(os.environ, simd.environment),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for library in (LIBVOSK, other)
    ]
    assert said == ["True", "False"]


IN_FRONT = """
#include <dlfcn.h>
void NAME(void* memory, unsigned long bytes) {
  static void (*next)(void*, unsigned long);
  if (!next) next = (void (*)(void*, unsigned long))dlsym(RTLD_NEXT, "NAME");
  if (next) next(memory, bytes);
}
"""


@runs_avx2
@pytest.mark.parametrize("name", ["free", "_ZdlPv", "_ZdlPvm"])
def test_a_library_that_frees_before_it_gets_no_memory_of_the_search(
    tmp_path: Path, simd: SimdLibrary, name: str
) -> None:
    (tmp_path / "front.c").write_text(IN_FRONT.replace("NAME", name))
    front = tmp_path / "front.so"
    command = ["gcc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", front, tmp_path / "front.c"]
    subprocess.run([*command, "-ldl"], check=True)
    program = """
import ctypes, sys
from pathlib import Path
from models.vosk.simd.preloaded import PreloadedSimd, SimdUnavailable
engine = ctypes.CDLL(sys.argv[1])
try:
    PreloadedSimd.attach(Path(sys.argv[1]), sys.argv[2])
except SimdUnavailable as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", program, LIBVOSK, simd.variant],
        env=os.environ | {"LD_PRELOAD": f"{front}:{simd.library}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "another library is preloaded before it" in said


MEMORY = """
import ctypes, json, sys, threading
from pathlib import Path
from models import RecognitionOptions, run_steps
from models.clips import clips_for, decode_clip
from models.vosk.model import VoskModel
from supervisor.trim import release_free_memory

directory, made, variant, many = json.loads(sys.argv[1])
library = ctypes.CDLL(None)
used = library.modelserver_simd_cell_bytes
kept = library.modelserver_simd_kept_cell_bytes
used.restype = kept.restype = ctypes.c_size_t
model = VoskModel(Path(directory), {n: Path(f) for n, f in made.items()}, simd=variant)
clips = [decode_clip(clip, 16000) for clip in clips_for("ko")] * many
most = 0

def decode(clips):
    global most
    recognizers = [model.recognizer(RecognitionOptions(words=True)) for _ in clips]
    said = [[] for _ in clips]
    for at in range(0, max(map(len, clips)), 8000):
        for number, clip in enumerate(clips):
            if at < len(clip):
                said[number] += run_steps(recognizers[number].accept(clip[at : at + 8000]))
        most = max(most, used())
    for number, recognizer in enumerate(recognizers):
        said[number] += run_steps(recognizer.finish())
    return list(map(repr, said))

alone = [said for clip in clips for said in decode([clip])]
together = [[] for _ in range(2)]
def half(number):
    together[number] = decode(clips[number::2])
threads = [threading.Thread(target=half, args=(number,)) for number in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
beside = [None] * len(clips)
beside[0::2], beside[1::2] = together
left, before = used(), kept()
release_free_memory()
after = kept()
print(json.dumps([alone == beside, decode(clips[:1])[0] == alone[0], most, left, before, after]))
"""


@runs_avx2
def test_decoders_keep_their_tokens_apart_and_give_the_memory_back(
    small: models.ModelLocation, prepared_small: PreparedModel, simd: SimdLibrary
) -> None:
    said = answer_of(MEMORY, small, prepared_small, simd.variant, 4, environment=simd.environment)
    together_as_alone, again_as_before, most, left, before, after = said
    assert together_as_alone
    assert again_as_before
    assert most > before >= 64 * 1024
    assert (left, after) == (0, 0)
