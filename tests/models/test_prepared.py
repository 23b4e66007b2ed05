"""Prepared models: made whole or not at all, found, verified, carried; the same answers always."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE

import psutil
import pytest
from cgroup import cannot
from conftest import share_compiler
from engine_lines import ENGINE_LINES
from harmed import flip, leftovers
from running import until
from small_model import SMALL_WORDS, make_small_model

import models
from models.prepared.manifest import key_of, read_manifest, write_manifest
from models.processor import processor_flags
from models.vosk.blas import blas_environment
from models.vosk.graph_file import graph_problem, read_graph_header
from models.vosk.prepared import (
    PreparedModel,
    compiled_graph,
    estimate_needs,
    find_prepared,
    must_be_affordable,
    prepare,
    prepared_models,
    remove,
    verify,
)
from models.vosk.prepared.compiler import GRAPH_COMPILER, compare, compose
from models.vosk.prepared.make import Bounds
from models.vosk.prepared.selfcheck import must_answer_alike
from models.vosk.prepared.structure import structure_problem

PLENTY = 10**12


# --- files that are made --------------------------------------------------------------------------


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
    small: models.ModelLocation, prepared_small: PreparedModel, cache: Path
) -> None:
    header = read_graph_header(compiled_graph(prepared_small.directory))
    assert header is not None
    assert header.mappable
    assert graph_problem(compiled_graph(prepared_small.directory)) is None
    words = prepared_small.directory / "graph" / "words.txt"
    assert (
        structure_problem(compiled_graph(prepared_small.directory), small.directory, words) is None
    )
    counts = compare(
        GRAPH_COMPILER.build(cache),
        small.directory / "graph",
        compiled_graph(prepared_small.directory),
        10**9,
    )
    assert (counts.states, counts.arcs) == (header.states, header.arcs)
    assert (header.states, header.arcs) == (
        prepared_small.manifest.counts["states"],
        prepared_small.manifest.counts["arcs"],
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
    remove(copied.directory)
    assert find_prepared(small, store).prepared is None
    assert leftovers(store) == []


# --- the same answers -----------------------------------------------------------------------------


def everything(
    location: models.ModelLocation, made: dict[str, Path], *, reverse: bool
) -> list[str]:
    """Return the engine's results for all clips, from a process of its own with the default
    kernel."""
    script = ENGINE_LINES + (
        "import sys, json\nfrom pathlib import Path\n"
        "from models.clips import clips_for, decode_clip\n"
        "from models.vosk.model import VoskModel\n"
        "directory, made, reverse = json.loads(sys.argv[1])\n"
        "model = VoskModel(Path(directory), {n: Path(f) for n, f in made.items()})\n"
        "clips = clips_for('ko')[::-1] if reverse else clips_for('ko')\n"
        "for clip in clips:\n"
        "    pcm = decode_clip(clip, 16000)\n"
        "    for chunk, alternatives, partials in ((3334, 0, True), (8000, 3, False)):\n"
        "        results = engine_lines(model, pcm, chunk, alternatives=alternatives,"
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
    real = GRAPH_COMPILER.build(store)
    wrapper.write_text(
        "#!/bin/sh\n"
        f'[ "$1" != compose ] || set -- "$1" "$2" {other}/graph/Gr.fst "$4" "$5" "$6" "$7"\n'
        f'exec {real} "$@"\n'
    )
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


# --- failures while preparing ---------------------------------------------------------------------


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
            remove(found.prepared.directory)
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
    out, program = small_disk / "HCLG.fst", GRAPH_COMPILER.build(cache)
    (small_disk / "others").write_bytes(bytes(1_000_000))
    with pytest.raises(models.ModelError, match=r"cannot write .*") as caught:
        compose(program, small.directory / "graph", out, small_disk / "words.txt", 0,
                lambda _: None)  # fmt: skip
    assert caught.value.code == "no_space"


def test_a_graph_that_explodes_is_ended(small: models.ModelLocation, store: Path) -> None:
    with pytest.raises(models.ModelError, match="larger than 50000 bytes") as caught:
        prepare(small, store, available_memory=PLENTY, bounds=Bounds(50_000))
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


def test_a_failure_is_remembered_for_the_model_and_the_version(
    tmp_path: Path, store: Path, embedded: models.ModelLocation
) -> None:
    directory = make_small_model(embedded.directory, tmp_path / "m", SMALL_WORDS.split())
    graph = directory / "graph" / "Gr.fst"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:1000])
    location = models.ModelLocation("m", directory, "ko")
    for again in (True, False):
        with pytest.raises(models.ModelError) as caught:
            prepare(location, store, available_memory=PLENTY, again=again)
        assert caught.value.code == ("compile_failed" if again else "failed_before")
    assert "cannot be read as an OpenFst graph" in caught.value.message
    graph.write_bytes(whole)  # another model
    assert compiled_graph(
        prepare(location, store, available_memory=PLENTY, again=False).directory
    ).is_file()


def test_memory_is_bounded(small: models.ModelLocation, store: Path) -> None:
    with pytest.raises(models.ModelError, match="memory that composing may use") as caught:
        prepare(small, store, available_memory=PLENTY, bounds=Bounds(memory=50_000_000))
    assert caught.value.code == "needs_too_much"
    assert leftovers(store) == []


def test_what_a_killed_process_has_left_does_not_count_as_used(
    small: models.ModelLocation, cache: Path, tmp_path: Path
) -> None:
    """Use a disk with room for one graph, and not for two."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = round(estimate_needs(small.directory).disk * 1.3)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False).returncode != 0:
        cannot("a tmpfs cannot be mounted")
    try:
        share_compiler(cache, disk)
        left = disk / ".partial-0123456789abcdef" / "graph"
        left.mkdir(parents=True)
        (left / "HCLG.fst.arcs").write_bytes(bytes(size // 2))
        assert compiled_graph(prepare(small, disk, available_memory=PLENTY).directory).is_file()
        assert leftovers(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_the_compiler_ends_with_the_process_that_waits_for_it_and_not_with_a_thread(
    small: models.ModelLocation, cache: Path, tmp_path: Path
) -> None:
    parts = [small.directory / "graph" / n for n in ("HCLr.fst", "Gr.fst", "disambig_tid.int")]
    command = [
        GRAPH_COMPILER.build(cache),
        "compose",
        *parts,
        tmp_path / "HCLG.fst",
        tmp_path / "words",
    ]
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        started.append(subprocess.Popen([*command, "0"], stdin=PIPE, stdout=DEVNULL))

    for _ in range(2):
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
    first, second = started
    assert first.stdin is not None
    first.stdin.close()
    assert first.wait(10) == -signal.SIGIO
    assert second.wait(60) == 0
    assert second.stdin is not None
    second.stdin.close()


# --- failures afterwards --------------------------------------------------------------------------


def test_a_truncated_graph_is_not_used(copied: PreparedModel, small: models.ModelLocation) -> None:
    with compiled_graph(copied.directory).open("r+b") as graph:
        graph.truncate(compiled_graph(copied.directory).stat().st_size - 16)
    lookup = find_prepared(small, copied.directory.parent)
    assert lookup.prepared is None
    assert "HCLG.fst is damaged" in lookup.problems[0]
    assert "HCLG.fst is damaged" in verify(copied)[0]
    again = prepare(small, copied.directory.parent, available_memory=PLENTY)
    assert verify(again) == []


def test_a_flipped_bit_is_not_served(copied: PreparedModel, small: models.ModelLocation) -> None:
    flip(compiled_graph(copied.directory), compiled_graph(copied.directory).stat().st_size // 2)
    lookup = find_prepared(small, copied.directory.parent)
    assert lookup.prepared is None
    assert "HCLG.fst is damaged" in lookup.problems[0]


def test_a_file_that_was_read_for_its_time_is_not_read_again(
    copied: PreparedModel, small: models.ModelLocation
) -> None:
    os.utime(compiled_graph(copied.directory), (1, 1))
    assert find_prepared(small, copied.directory.parent).prepared is not None
    manifest = read_manifest(copied.directory)
    assert manifest is not None
    assert manifest.made["graph/HCLG.fst"].mtime_ns == 1_000_000_000


def test_a_bit_that_flipped_unseen_is_found_by_verify(
    copied: PreparedModel, small: models.ModelLocation
) -> None:
    status = compiled_graph(copied.directory).stat()
    flip(compiled_graph(copied.directory), status.st_size // 2)
    os.utime(compiled_graph(copied.directory), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "HCLG.fst is damaged" in verify(copied)[0]


def test_a_changed_original_is_noticed(
    tmp_path: Path, copied: PreparedModel, embedded: models.ModelLocation
) -> None:
    directory = make_small_model(embedded.directory, tmp_path / "m", SMALL_WORDS.split())
    location, store = models.ModelLocation("m", directory, "ko"), copied.directory.parent
    assert find_prepared(location, store).prepared is not None  # made of the same files
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
    assert copied.manifest.key == manifest["key"]
    manifest["key"] = key_of(copied.manifest.sources, "compile-graph 0")
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


def test_manifests_survive_writing(tmp_path: Path, prepared_small: PreparedModel) -> None:
    write_manifest(tmp_path, prepared_small.manifest)
    assert read_manifest(tmp_path) == prepared_small.manifest
