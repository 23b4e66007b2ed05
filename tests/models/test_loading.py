"""Loading a model: mapped where possible, by a library that is as expected."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_model import make_static_model

import models
from models.vosk.blas import UnsupportedProcessor, blas_environment
from models.vosk.graph_file import graph_problem
from models.vosk.mapping import CannotMap, mapped_reading
from models.vosk.prepared import PreparedModel, compiled_graph, find_prepared, prepare

PLENTY = 10**12


LOAD = """
import ctypes, json, sys
from pathlib import Path
from models.vosk.loading import _LIBRARY
if len(sys.argv) > 2:
    keep = ctypes.create_string_buffer(24 + 8)
    # Length, capacity, a count of references that keeps it from being freed, and the characters.
    many = (1000).to_bytes(8, "little")
    ctypes.memmove(keep, (5).to_bytes(8, "little") * 2 + many + b"other", 29)
    flag = ctypes.c_void_p.in_dll(ctypes.CDLL(str(_LIBRARY)), "FLAGS_fst_read_mode")
    before, flag.value = flag.value, ctypes.addressof(keep) + 24
import models
directory, made = json.loads(sys.argv[1])
from models.vosk.model import VoskModel
model = VoskModel(Path(directory), {n: Path(f) for n, f in made.items()})
from models.clips import clips_for, decode_clip
pcm = decode_clip(clips_for("ko")[2], 16000)
recognizer = model.recognizer(models.RecognitionOptions())
models.run_steps(recognizer.accept(pcm))
maps = Path("/proc/self/maps").read_text()
error = ""
try:
    model.recognizer(models.RecognitionOptions(grammar=("a",)))
except models.ModelError as refused:
    error = refused.code
(last,) = models.run_steps(recognizer.finish())
print(json.dumps([model.report(), last.text, "HCLG.fst" in maps, error]))
if len(sys.argv) > 2:
    flag.value = before  # the library's own clean-up must find its own
"""


def loaded(
    location: models.ModelLocation, made: PreparedModel, *flag: str
) -> tuple[dict[str, object], str, bool, str]:
    files = {name: str(file) for name, file in made.made.items()}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps([str(location.directory), files]), *flag],
        capture_output=True,
        text=True,
        check=True,
    )
    report, text, mapped, error = json.loads(done.stdout)
    return report, text, mapped, error


def test_a_prepared_graph_is_mapped(
    small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    report, text, mapped, error = loaded(small, prepared_small)
    assert report["details"]["graph"] == "mapped"
    size = compiled_graph(prepared_small.directory).stat().st_size
    assert size <= int(str(report["mapped_bytes"])) < size + 3 * 4096
    assert mapped
    assert text
    assert error == "grammar_unsupported"


def test_a_library_that_is_not_as_expected_is_left_alone(
    small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    report, text, mapped, _ = loaded(small, prepared_small, "other")
    assert report["details"]["graph"] == "lazy"
    assert report["details"]["not_mapped"] == "FLAGS_fst_read_mode does not say read"
    assert not mapped
    assert text == loaded(small, prepared_small)[1]


IN_VAIN = """
import json, sys
from pathlib import Path
from models.vosk import loading as vosk_loading

alive = []

class Counted(vosk_loading.vosk.Model):
    def __init__(self, path):
        print("beside", len(alive))
        super().__init__(path)
        alive.append(path)

    def __del__(self):
        alive.pop()
        super().__del__()

vosk_loading.vosk.Model = Counted
vosk_loading.find_mappings = lambda _: []
directory, made = json.loads(sys.argv[1])
made = {name: Path(file) for name, file in made.items()}
model, loaded = vosk_loading.load_vosk(Path(directory), made)
print(loaded.report()["graph"], "as", loaded.not_mapped)
"""


def test_a_model_that_was_loaded_in_vain_is_gone_before_the_next_is_loaded(
    small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    files = {name: str(file) for name, file in prepared_small.made.items()}
    done = subprocess.run(
        [sys.executable, "-c", IN_VAIN, json.dumps([str(small.directory), files])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        *("beside 0", "beside 0"),
        "lazy as the library read the graph without mapping it",
    ]


@pytest.mark.parametrize("content", [0, 64, 2**63 - 64])
def test_looking_at_an_unknown_library_never_crashes(tmp_path: Path, content: int) -> None:
    source = tmp_path / "other.c"
    source.write_text(f"void *FLAGS_fst_read_mode = (void *){content}UL;\n")
    library = tmp_path / "libother.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    with (
        pytest.raises(CannotMap, match="not a string of the old ABI"),
        mapped_reading(library, source, tmp_path),
    ):
        pass
    with (
        pytest.raises(CannotMap, match="has no FLAGS_fst_read_mode"),
        mapped_reading(Path("libc.so.6"), source, tmp_path),
    ):
        pass


def test_a_static_graph_that_cannot_be_mapped_is_written_anew(
    tmp_path: Path, store: Path, small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    static = make_static_model(small, prepared_small, tmp_path / "static", aligned=False)
    assert "not an aligned const graph" in (
        graph_problem(static.directory / "graph" / "HCLG.fst") or ""
    )
    made = prepare(static, store, available_memory=PLENTY)
    assert set(made.manifest.made) == {"graph/HCLG.fst", "conf/mfcc.conf"}
    assert (
        compiled_graph(made.directory).read_bytes()
        == compiled_graph(prepared_small.directory).read_bytes()
    )
    report, text, mapped, error = loaded(static, made)
    assert (report["details"]["graph"], mapped, error) == ("mapped", True, "grammar_unsupported")
    assert text == loaded(small, prepared_small)[1]


def test_a_static_graph_that_can_be_mapped_is_used_as_it_is(
    tmp_path: Path, store: Path, small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    static = make_static_model(small, prepared_small, tmp_path / "static", aligned=True)
    made = prepare(static, store, available_memory=PLENTY)
    assert set(made.manifest.made) == {"conf/mfcc.conf"}
    assert compiled_graph(made.directory).is_symlink()
    assert find_prepared(static, store).prepared == made
    report, _, mapped, _ = loaded(static, made)
    assert (report["details"]["graph"], mapped) == ("mapped", True)


# --- BLAS -----------------------------------------------------------------------------------------


AVX2 = frozenset({"pni", "sse4_2", "avx", "avx2", "fma"})


AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@pytest.mark.parametrize(
    ("wanted", "flags", "kernel"),
    [
        ("auto", AVX512, "SkylakeX"),
        ("auto", AVX2, "Haswell"),
        ("auto", frozenset({"pni", "sse4_2", "avx"}), "Sandybridge"),
        ("auto", frozenset({"pni"}), "Prescott"),
        ("auto", frozenset(), None),
        ("off", AVX512, None),
        ("Haswell", AVX512, "Haswell"),
    ],
)
def test_the_blas_kernel_is_one_that_the_processor_has(
    wanted: str, flags: frozenset[str], kernel: str | None
) -> None:
    assert blas_environment(wanted, flags).get("OPENBLAS_CORETYPE") == kernel


def test_a_kernel_that_the_processor_lacks_is_refused() -> None:
    with pytest.raises(UnsupportedProcessor, match=r"lacks avx512bw, avx512cd"):
        blas_environment("SkylakeX", AVX2)
