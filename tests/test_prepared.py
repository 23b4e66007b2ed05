"""Prepared models: made whole or not at all, found, verified, carried; the same answers always."""

import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import psutil
import pytest
from running import until
from small_model import SMALL_WORDS, make_small_model, make_static_model

import models
from models.blas import KernelRefused, blas_environment
from models.graph_file import graph_problem, read_graph_header
from models.mapping import CannotMap, mapped_reading
from models.prepared import (
    PreparedModel,
    estimate_needs,
    export_prepared,
    find_prepared,
    import_prepared,
    must_be_affordable,
    prepare,
    prepared_models,
    remove,
    verify,
)
from models.prepared.compiler import check, compose, get_compiler
from models.prepared.manifest import read_manifest, write_manifest
from models.prepared.selfcheck import must_answer_alike
from models.prepared.store import PARTIAL_PREFIX
from models.processor import processor_flags

PLENTY = 10**12


@pytest.fixture
def copied(store: Path, prepared_small: PreparedModel) -> PreparedModel:
    """A copy of the small prepared model, to be harmed."""
    directory = store / prepared_small.directory.name
    shutil.copytree(prepared_small.directory, directory, symlinks=True)
    return PreparedModel(directory, prepared_small.manifest)


def leftovers(store: Path) -> list[str]:
    return [p.name for p in store.iterdir() if p.name.startswith(PARTIAL_PREFIX)]


# --- what is made ---------------------------------------------------------------------------------


def test_a_prepared_model_is_links_and_what_is_made_new(
    small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    manifest = prepared_small.manifest
    assert set(manifest.made) == {"graph/HCLG.fst", "graph/words.txt", "conf/mfcc.conf"}
    files = {p for p in prepared_small.directory.rglob("*") if p.is_file() and not p.is_symlink()}
    assert files == {*prepared_small.made.values(), prepared_small.directory / "prepared.json"}
    link = prepared_small.directory / "am" / "final.mdl"
    assert link.resolve() == (small.directory / "am" / "final.mdl").resolve()
    assert not (prepared_small.directory / "graph" / "HCLr.fst").exists()
    assert "--dither=0" in (prepared_small.directory / "conf/mfcc.conf").read_text().split()
    assert verify(prepared_small) == []


def test_the_graph_is_whole_aligned_and_leads_nowhere_else(
    prepared_small: PreparedModel, cache: Path
) -> None:
    header = read_graph_header(prepared_small.graph)
    assert header is not None
    assert header.mappable
    assert graph_problem(prepared_small.graph) is None
    counts = check(get_compiler(cache), prepared_small.graph)
    assert (counts.states, counts.arcs) == (header.states, header.arcs)
    assert (header.states, header.arcs) == (
        prepared_small.manifest.states,
        prepared_small.manifest.arcs,
    )
    assert header.states > 1000


def test_it_is_found_for_its_original_and_made_only_once(
    small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    store = prepared_small.directory.parent
    assert find_prepared(small, store).prepared == prepared_small
    assert prepare(small, store, available_memory=0) == prepared_small
    assert [p.directory for p in prepared_models(store)] == [prepared_small.directory]


def test_it_can_be_made_in_a_place_of_ones_own(
    small: models.ModelLocation, store: Path, tmp_path: Path
) -> None:
    made = prepare(small, store, available_memory=PLENTY, output=tmp_path / "mine")
    assert made.directory == tmp_path / "mine"
    location = models.find_model(str(tmp_path / "mine"), tmp_path)
    assert find_prepared(location, tmp_path).prepared == made
    with pytest.raises(models.ModelError, match="is there already"):
        prepare(small, store, available_memory=PLENTY, output=tmp_path / "mine")


def test_a_prepared_model_can_be_removed(
    copied: PreparedModel, small: models.ModelLocation
) -> None:
    store = copied.directory.parent
    remove(copied)
    assert find_prepared(small, store).prepared is None
    assert leftovers(store) == []


# --- the same answers -----------------------------------------------------------------------------


def everything(
    location: models.ModelLocation, made: dict[str, Path], *, reverse: bool
) -> list[str]:
    """What the engine says of all clips, from a process of its own with the default kernel."""
    script = (
        "import sys, json\nfrom pathlib import Path\n"
        "from models.clips import clips_for, decode_clip\n"
        "from models.vosk_model import VoskModel\n"
        "directory, made, reverse = json.loads(sys.argv[1])\n"
        "model = VoskModel(Path(directory), {n: Path(f) for n, f in made.items()})\n"
        "clips = clips_for('ko')[::-1] if reverse else clips_for('ko')\n"
        "for clip in clips:\n"
        "    pcm = decode_clip(clip, 16000)\n"
        "    for chunk, alternatives, partials in ((3334, 0, True), (8000, 3, False)):\n"
        "        results = model.raw_results(pcm, chunk, alternatives=alternatives,"
        " partials=partials)\n"
        "        print(clip.name + json.dumps(list(results)))\n"
    )
    arguments = json.dumps([str(location.directory), {n: str(f) for n, f in made.items()}, reverse])
    environment = {**os.environ, **blas_environment("auto", processor_flags())}
    done = subprocess.run(
        [sys.executable, "-c", script, arguments],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return done.stdout.splitlines()


def test_the_embedded_model_prepared_says_the_same_to_the_byte(
    embedded: models.ModelLocation, prepared_embedded: PreparedModel
) -> None:
    made = prepared_embedded.made
    forward = everything(embedded, made, reverse=False)
    backward = everything(embedded, made, reverse=True)
    plain = everything(embedded, {}, reverse=False)
    assert len(forward) == 6
    assert forward == plain
    assert sorted(backward) == sorted(plain)
    assert all("confidence" in line or "partial_result" in line for line in plain)


def test_the_small_model_prepared_says_the_same_in_any_order(
    small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    plain_backward = everything(small, {}, reverse=True)
    prepared_backward = everything(small, prepared_small.made, reverse=True)
    assert prepared_backward == plain_backward
    assert sorted(everything(small, prepared_small.made, reverse=False)) == sorted(plain_backward)


def test_a_graph_that_answers_otherwise_is_thrown_away(
    tmp_path: Path, store: Path, small: models.ModelLocation, embedded: models.ModelLocation
) -> None:
    other = make_small_model(embedded.directory, tmp_path / "other", SMALL_WORDS.split(), skew=9)
    tools = tmp_path / "bin"
    tools.mkdir()
    # A compiler that composes another language model than it was given.
    wrapper = tools / "modelserver-compile-graph"
    real = get_compiler(store)
    wrapper.write_text(f'#!/bin/sh\nset -- "$1" "$2" {other}/graph/Gr.fst "$4" "$5" "$6" "$7"\n'
                       f'exec {real} "$@"\n')  # fmt: skip
    wrapper.chmod(0o755)
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{tools}:{path}"
    try:
        with pytest.raises(models.ModelError, match="does not answer like its original") as caught:
            prepare(small, store, available_memory=PLENTY)
    finally:
        os.environ["PATH"] = path
    assert caught.value.code == "answers_differ"
    assert list(prepared_models(store)) == []
    assert leftovers(store) == []


def test_a_model_is_alike_to_itself(small: models.ModelLocation) -> None:
    must_answer_alike(small.directory, "ko", {})


# --- what can go wrong while preparing ------------------------------------------------------------


def start_preparing(small: models.ModelLocation, store: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "modelserver", "models", "prepare", str(small.directory),
         "--language", "ko", "--prepared-dir", str(store)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_killed_at_any_moment_it_leaves_nothing_that_is_served(
    small: models.ModelLocation, store: Path
) -> None:
    generator = random.Random(3)
    # Long before the end, in composing, in the self-check, and while it is placed.
    for after_s in [*(generator.uniform(0.2, 6.0) for _ in range(3)), 0.0]:
        process = start_preparing(small, store)
        started = time.monotonic()
        if after_s == 0.0:
            until(lambda: any(store.glob(".partial-*/prepared.json")) or list_whole(store), 30)
        while time.monotonic() - started < after_s and process.poll() is None:
            time.sleep(0.005)
        children = psutil.Process(process.pid).children() if process.poll() is None else []
        process.kill()
        process.communicate()
        found = find_prepared(small, store)
        if found.prepared is not None:
            assert verify(found.prepared) == []
            remove(found.prepared)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                if "compile-graph" in child.name():
                    child.wait(2)
    made = prepare(small, store, available_memory=PLENTY)
    assert verify(made) == []
    assert leftovers(store) == []


def list_whole(store: Path) -> list[PreparedModel]:
    return list(prepared_models(store))


def test_two_at_once_do_not_happen(small: models.ModelLocation, store: Path) -> None:
    process = start_preparing(small, store)
    until(lambda: any(store.glob(".partial-*")), 30)
    with pytest.raises(models.ModelError, match=f"by process {process.pid}"):
        prepare(small, store, available_memory=PLENTY)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert find_prepared(small, store).prepared is not None


def test_what_is_not_there_is_refused_before_it_begins(
    embedded: models.ModelLocation, store: Path
) -> None:
    needs = estimate_needs(embedded.directory)
    assert 1.3e9 < needs.memory < 1.8e9
    assert 1.5e9 < needs.disk < 2.5e9
    with pytest.raises(models.ModelError, match=r"about 4 min.*0.5 GB of memory is avail"):
        prepare(embedded, store, available_memory=500_000_000)
    assert leftovers(store) == []


def test_a_disk_too_small_is_refused_and_a_disk_that_fills_up_is_told(
    small: models.ModelLocation, small_disk: Path, cache: Path
) -> None:
    with pytest.raises(models.ModelError, match=r"0.0 GB of disk is free in /"):
        must_be_affordable(estimate_needs(small.directory), PLENTY, small_disk / "store")
    out = small_disk / "HCLG.fst"
    with pytest.raises(models.ModelError, match=r"cannot write .*") as caught:
        compose(get_compiler(cache), small.directory / "graph", out, small_disk / "words.txt", 0,
                lambda _: None)  # fmt: skip
    assert caught.value.code == "compile_failed"


def test_a_graph_that_explodes_is_ended(small: models.ModelLocation, store: Path) -> None:
    with pytest.raises(models.ModelError, match="larger than 100000 bytes") as caught:
        prepare(small, store, available_memory=PLENTY, max_bytes=100_000)
    assert caught.value.code == "graph_too_large"
    assert leftovers(store) == []


def test_a_damaged_original_is_told(
    tmp_path: Path, store: Path, embedded: models.ModelLocation
) -> None:
    directory = make_small_model(embedded.directory, tmp_path / "m", SMALL_WORDS.split())
    graph = directory / "graph" / "Gr.fst"
    graph.write_bytes(graph.read_bytes()[:1000])
    location = models.ModelLocation("m", directory, "ko")
    with pytest.raises(models.ModelError) as caught:
        prepare(location, store, available_memory=PLENTY)
    assert caught.value.code == "compile_failed"
    assert leftovers(store) == []


# --- what can go wrong afterwards -----------------------------------------------------------------


def test_a_truncated_graph_is_not_used(copied: PreparedModel, small: models.ModelLocation) -> None:
    with copied.graph.open("r+b") as graph:
        graph.truncate(copied.graph.stat().st_size - 16)
    lookup = find_prepared(small, copied.directory.parent)
    assert lookup.prepared is None
    assert "HCLG.fst is damaged" in lookup.problems[0]
    assert "HCLG.fst is damaged" in verify(copied)[0]
    again = prepare(small, copied.directory.parent, available_memory=PLENTY)
    assert verify(again) == []


def flip(file: Path, at: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte[0] ^ 0x40]))


def test_a_flipped_bit_is_not_served(copied: PreparedModel, small: models.ModelLocation) -> None:
    flip(copied.graph, copied.graph.stat().st_size // 2)
    lookup = find_prepared(small, copied.directory.parent)
    assert lookup.prepared is None
    assert "HCLG.fst is damaged" in lookup.problems[0]


def test_a_bit_that_flipped_unseen_is_found_by_verify(
    copied: PreparedModel, small: models.ModelLocation
) -> None:
    status = copied.graph.stat()
    flip(copied.graph, status.st_size // 2)
    os.utime(copied.graph, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "HCLG.fst is damaged" in verify(copied)[0]


def test_a_changed_original_is_noticed(
    tmp_path: Path, store: Path, embedded: models.ModelLocation
) -> None:
    directory = make_small_model(embedded.directory, tmp_path / "m", SMALL_WORDS.split())
    location = models.ModelLocation("m", directory, "ko")
    prepare(location, store, available_memory=PLENTY)
    graph = directory / "graph" / "Gr.fst"
    content = graph.read_bytes()
    flip(graph, len(content) - 20)
    lookup = find_prepared(location, store)
    assert lookup.prepared is None
    assert "Gr.fst of the original has changed" in lookup.problems[0]
    graph.write_bytes(content)  # another time, the same content
    assert find_prepared(location, store).prepared is not None


def test_what_another_maker_made_is_not_used(
    copied: PreparedModel, small: models.ModelLocation
) -> None:
    manifest = json.loads((copied.directory / "prepared.json").read_text())
    manifest["maker"] = "compile-graph 0"
    (copied.directory / "prepared.json").write_text(json.dumps(manifest))
    lookup = find_prepared(small, copied.directory.parent)
    assert lookup.prepared is None
    assert "made by compile-graph 0" in lookup.problems[0]


def test_a_manifest_that_cannot_be_read_is_no_prepared_model(
    copied: PreparedModel, small: models.ModelLocation
) -> None:
    (copied.directory / "prepared.json").write_text("{")
    assert find_prepared(small, copied.directory.parent).prepared is None
    assert verify(prepare(small, copied.directory.parent, available_memory=PLENTY)) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "not an aligned const graph"), (b"x" * 5000, "not an aligned const graph")],
)
def test_what_is_no_graph_is_told(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "HCLG.fst"
    file.write_bytes(content)
    assert says in (graph_problem(file) or "")
    assert "cannot be read" in (graph_problem(tmp_path / "none.fst") or "")


# --- carrying -------------------------------------------------------------------------------------


def test_it_can_be_carried_to_another_machine(
    tmp_path: Path, store: Path, small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    file = tmp_path / "small.tar"
    export_prepared(prepared_small, file)
    assert list(tmp_path.glob("*.partial")) == []
    made = import_prepared(file, small, store)
    assert verify(made) == []
    assert find_prepared(small, store).prepared == made
    assert (made.directory / "am" / "final.mdl").is_file()
    assert leftovers(store) == []


def test_a_damaged_model_is_not_exported(tmp_path: Path, copied: PreparedModel) -> None:
    flip(copied.graph, 5000)
    with pytest.raises(models.ModelError, match="damaged"):
        export_prepared(copied, tmp_path / "small.tar")
    assert not (tmp_path / "small.tar").exists()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, prepared_small: PreparedModel) -> bytes:
    file = tmp_path_factory.mktemp("archive") / "small.tar"
    export_prepared(prepared_small, file)
    return file.read_bytes()


def rewritten(archive: bytes, **changes: bytes | None) -> bytes:
    """The archive with members replaced, or left out; `manifest` is a text replacement a=>b."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as source,
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in source:
            reader = source.extractfile(member)
            assert reader is not None
            content: bytes | None = reader.read()
            assert content is not None
            if member.name == "prepared.json" and "manifest" in changes:
                change = changes["manifest"]
                assert change is not None
                content = content.replace(*change.split(b"=>"))
            key = Path(member.name).stem
            if key in changes:
                content = changes[key]
            if content is not None:
                member.size = len(content)
                target.addfile(member, io.BytesIO(content))
    return out.getvalue()


STAMP = {"size": 1, "mtime_ns": 0, "sha256": "0" * 64}


def manifest_of(archive: bytes, **fields: object) -> bytes:
    """The archive with other fields in its manifest."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as source:
        reader = source.extractfile("prepared.json")
        assert reader is not None
        manifest = json.loads(reader.read()) | fields
    return rewritten(archive, prepared=json.dumps(manifest).encode())


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda a: b"", "cannot be imported"),
        (lambda a: b"hello" * 1000, "cannot be imported"),
        (lambda a: a[: len(a) // 2], "cannot be imported"),
        (lambda a: a[:700_000] + bytes([a[700_000] ^ 1]) + a[700_001:], "checksum"),
        (lambda a: rewritten(a, words=None), r"words.txt is missing"),
        (lambda a: rewritten(a, words=b"few"), "another size"),
        (lambda a: rewritten(a, prepared=b"{}"), "manifest cannot be read"),
        (lambda a: rewritten(a, prepared=None), "does not begin with a manifest"),
        (lambda a: rewritten(a, manifest=b'"graph/words.txt"=>"../../words.txt"'), "names files"),
        (lambda a: rewritten(a, manifest=b'"graph/words.txt"=>"/etc/words.txt"'), "names files"),
        (
            lambda a: rewritten(a, manifest=b'"name": "small"=>"name": "../small"'),
            "names files|no name",
        ),
        # Made from nothing it would fit every model; these it would replace are not made here.
        (lambda a: manifest_of(a, sources={}), "names files|key"),
        (lambda a: manifest_of(a, sources={"/etc/passwd": STAMP}), "names files|key"),
        (lambda a: manifest_of(a, made={"am/final.mdl": STAMP}), "names files"),
        (lambda a: manifest_of(a, made={"prepared.json": STAMP}), "names files"),
        (lambda a: manifest_of(a, name="other"), "made from other"),
        (lambda a: manifest_of(a, name="x\n\x1b[31m"), "no name"),
        (lambda a: rewritten(a, manifest=b'"format": 1=>"format": 9'), "its format is 9"),
        (lambda a: rewritten(a, manifest=b'"sha256": "862822=>"sha256": "000000'), "its key"),
    ],
)
def test_a_file_that_is_not_right_is_refused(
    tmp_path: Path,
    store: Path,
    small: models.ModelLocation,
    archive: bytes,
    harm: object,
    says: str,
) -> None:
    file = tmp_path / "small.tar"
    file.write_bytes(harm(archive))  # type: ignore[operator]
    with pytest.raises(models.ModelError, match=says):
        import_prepared(file, small, store)
    assert list(prepared_models(store)) == []
    assert leftovers(store) == []


def test_two_imports_at_once_do_not_harm_each_other(
    tmp_path: Path, store: Path, small: models.ModelLocation, archive: bytes
) -> None:
    file = tmp_path / "small.tar"
    file.write_bytes(archive)
    command = [sys.executable, "-m", "modelserver", "models", "import", str(file)]
    command += [str(small.directory), "--language", "ko", "--prepared-dir", str(store)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [(process.communicate(timeout=60)[1], process.returncode) for process in running]
    assert 0 in [status for _, status in said]
    assert all(status == 0 or "being prepared" in text for text, status in said), said
    (made,) = prepared_models(store)
    assert verify(made) == []
    assert leftovers(store) == []


def test_two_names_of_one_model_are_not_prepared_at_once(
    small: models.ModelLocation, store: Path
) -> None:
    process = start_preparing(small, store)
    until(lambda: any(store.glob(".partial-*")), 30)
    other = models.ModelLocation("other", small.directory, small.language)
    with pytest.raises(models.ModelError, match=f"by process {process.pid}"):
        prepare(other, store, available_memory=PLENTY)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def test_names_in_a_model_s_own_manifest_lead_nowhere(
    tmp_path: Path, copied: PreparedModel
) -> None:
    """Whoever packed a model may have put one in."""
    file = copied.directory / "prepared.json"
    manifest = json.loads(file.read_text())
    for name in ("../evil/payload", "/etc/hostname", "am/final.mdl"):
        file.write_text(json.dumps(manifest | {"made": {name: STAMP}}))
        assert read_manifest(copied.directory) is None


# --- loading --------------------------------------------------------------------------------------

LOAD = """
import ctypes, json, sys
from pathlib import Path
from models.vosk_loading import _LIBRARY
if len(sys.argv) > 2:
    keep = ctypes.create_string_buffer(24 + 8)
    # Length, capacity, a count of references that keeps it from being freed, and the characters.
    many = (1000).to_bytes(8, "little")
    ctypes.memmove(keep, (5).to_bytes(8, "little") * 2 + many + b"other", 29)
    flag = ctypes.c_void_p.in_dll(ctypes.CDLL(str(_LIBRARY)), "FLAGS_fst_read_mode")
    before, flag.value = flag.value, ctypes.addressof(keep) + 24
import models
directory, made = json.loads(sys.argv[1])
model = models.load_model(Path(directory), {n: Path(f) for n, f in made.items()})
from models.clips import clips_for, decode_clip
pcm = decode_clip(clips_for("ko")[2], 16000)
recognizer = model.recognizer(models.RecognitionOptions())
recognizer.accept(pcm)
maps = Path("/proc/self/maps").read_text()
error = ""
try:
    model.recognizer(models.RecognitionOptions(grammar=("a",)))
except models.ModelError as refused:
    error = refused.code
print(json.dumps([model.report(), recognizer.finish().text, "HCLG.fst" in maps, error]))
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
    assert report["graph"] == "mapped"
    size = prepared_small.graph.stat().st_size
    assert size <= int(str(report["mapped_bytes"])) < size + 3 * 4096
    assert mapped
    assert text
    assert error == "grammar_unsupported"


def test_a_library_that_is_not_as_expected_is_left_alone(
    small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    report, text, mapped, _ = loaded(small, prepared_small, "other")
    assert report["graph"] == "lazy"
    assert report["not_mapped"] == "FLAGS_fst_read_mode does not say read"
    assert not mapped
    assert text == loaded(small, prepared_small)[1]


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
    assert made.graph.read_bytes() == prepared_small.graph.read_bytes()
    report, text, mapped, error = loaded(static, made)
    assert (report["graph"], mapped, error) == ("mapped", True, "grammar_unsupported")
    assert text == loaded(small, prepared_small)[1]


def test_a_static_graph_that_can_be_mapped_is_used_as_it_is(
    tmp_path: Path, store: Path, small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    static = make_static_model(small, prepared_small, tmp_path / "static", aligned=True)
    made = prepare(static, store, available_memory=PLENTY)
    assert set(made.manifest.made) == {"conf/mfcc.conf"}
    assert made.graph.is_symlink()
    assert find_prepared(static, store).prepared == made
    report, _, mapped, _ = loaded(static, made)
    assert (report["graph"], mapped) == ("mapped", True)


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
    with pytest.raises(KernelRefused, match=r"lacks avx512bw, avx512cd"):
        blas_environment("SkylakeX", AVX2)


def test_manifests_survive_writing(tmp_path: Path, prepared_small: PreparedModel) -> None:
    write_manifest(tmp_path, prepared_small.manifest)
    assert read_manifest(tmp_path) == prepared_small.manifest
