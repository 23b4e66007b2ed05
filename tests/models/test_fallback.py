"""Fallback: a model that cannot be loaded in one form is loaded in another, and is not retried
without end."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from running import start_server

import models
from models.prepared.manifest import FileStamp, Manifest, read_manifest, write_manifest
from models.vosk import mapping
from models.vosk.graph_file import read_graph_header
from models.vosk.prepared import PreparedModel, export_prepared, import_prepared
from models.vosk.simd import ABI, LIBRARY, SIMD
from modelserver.serving.learned import Lessons
from modelserver.serving.selection import candidate, candidates
from modelserver.settings import Settings
from modelserver.settings.changes import with_values


def leading_out(prepared: PreparedModel, directory: Path) -> PreparedModel:
    """Return a copy whose arcs lead out of its graph, with checksums that match."""
    shutil.copytree(prepared.directory, directory, symlinks=True)
    graph = directory / "graph" / "HCLG.fst"
    header = read_graph_header(graph)
    assert header is not None
    data = bytearray(graph.read_bytes())
    for arc in range(header.arcs):
        at = header.arcs_at + 16 * arc + 12
        data[at : at + 4] = (0x7FFFFF00).to_bytes(4, "little")
    graph.write_bytes(data)
    manifest = read_manifest(directory)
    assert manifest is not None
    made = manifest.made | {"graph/HCLG.fst": FileStamp.of(graph)}
    fields = {name: getattr(manifest, name) for name in Manifest.__struct_fields__}
    write_manifest(directory, Manifest(**fields | {"made": made}))
    found = read_manifest(directory)
    assert found is not None
    return PreparedModel(directory, found)


def test_a_graph_that_leads_out_of_itself_is_not_imported(
    tmp_path: Path, store: Path, small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    made = leading_out(prepared_small, tmp_path / prepared_small.directory.name)
    export_prepared(made, tmp_path / "small.tar")
    with pytest.raises(models.ModelError, match="an arc leads out of the graph") as caught:
        import_prepared(tmp_path / "small.tar", small, store)
    assert caught.value.code == "bad_archive"
    assert not any(path.name != "tools" for path in store.iterdir())


@pytest.mark.timeout(120)
def test_one_that_crashes_at_each_load_gives_way_to_the_original(
    tmp_path: Path, small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    made = leading_out(prepared_small, store / prepared_small.directory.name)
    with start_server(
        tmp_path,
        f"--model={small.directory}",
        MODELSERVER_PREPARED_DIR=str(store),
        MODELSERVER_WORKERS_COUNT="1",
        MODELSERVER_DEBUG_WARMUP="clips",
        MODELSERVER_ENGINES_VOSK_SIMD="off",
    ) as server:
        server.wait_ready()
        assert server.events("model.loaded")[0]["details"]["graph"] == "lazy"
        assert [e["form"] for e in server.events("model.chosen")] == ["prepared"] * 2 + [
            "published"
        ]
        told = server.wait_event("prepared_model.rejected")
        assert str(made.directory) in told["problem"]
        assert "2 loads have failed, the last one so: " in told["problem"]
        assert "2 loads have failed" in server.health()["models"][0]["not_prepared"]


FAULTY = f"""
extern "C" __attribute__((visibility("default"))) int modelserver_simd_abi() {{ return {ABI}; }}
extern "C" __attribute__((visibility("default"))) int modelserver_simd_begin(unsigned long)
{{ __builtin_trap(); }}
extern "C" __attribute__((visibility("default")))
int modelserver_simd_attach(const char*, const char*) {{ __builtin_trap(); }}
"""


@pytest.mark.timeout(120)
def test_a_simd_library_that_crashes_is_left_out(
    tmp_path: Path, small: models.ModelLocation, prepared_small: PreparedModel, cache: Path
) -> None:
    store = tmp_path / "a store: with a name"  # which the linker would split
    store.mkdir()
    shutil.copytree(prepared_small.directory, store / prepared_small.directory.name, symlinks=True)
    simd = SIMD.build(cache)
    (store / "tools").mkdir()
    source = tmp_path / "faulty.cc"
    source.write_text(FAULTY)
    faulty = store / "tools" / simd.name
    subprocess.run(["g++", "-shared", "-fPIC", "-o", str(faulty), str(source)], check=True)
    with start_server(
        tmp_path,
        f"--model={small.directory}",
        MODELSERVER_PREPARED_DIR=str(store),
        MODELSERVER_WORKERS_COUNT="1",
    ) as server:
        server.wait_ready()
        (loaded,) = server.events("model.loaded")
        assert (loaded["details"]["graph"], loaded["details"]["simd"]) == ("mapped", "engine")
        assert len(server.events("model.chosen")) == 3
        assert "2 loads have failed" in server.events("form.disabled")[0]["problem"]
        assert "2 loads have failed" in server.health()["models"][0]["missing"]


@pytest.mark.timeout(120)
def test_a_simd_library_in_a_directory_that_the_linker_would_split_is_used(
    tmp_path: Path, small: models.ModelLocation, prepared_small: PreparedModel, cache: Path
) -> None:
    store = tmp_path / "a store: with a name"
    store.mkdir()
    shutil.copytree(prepared_small.directory, store / prepared_small.directory.name, symlinks=True)
    simd = SIMD.build(cache)
    (store / "tools").mkdir()
    shutil.copy(simd, store / "tools")
    with start_server(
        tmp_path,
        f"--model={small.directory}",
        MODELSERVER_PREPARED_DIR=str(store),
        MODELSERVER_WORKERS_COUNT="1",
    ) as server:
        server.wait_ready()
        assert server.events("model.loaded")[0]["details"]["simd"].startswith("packed")


def serving(store: Path, **vosk: str) -> Settings:
    return with_values(
        Settings(prepared_dir=store), {f"engines.vosk.{name}": vosk[name] for name in vosk}
    )


def test_each_way_is_tried_twice(
    small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    settings = serving(prepared_small.directory.parent)
    lessons = Lessons()

    def form() -> models.Form:
        return candidates(small, settings, lessons)[0].form

    best = form()
    lessons.load_failed(best, "SIGSEGV")
    assert not lessons.failed
    lessons.load_failed(best, "SIGSEGV")
    assert "SIGSEGV" in lessons.failed[best.key]
    without = form()
    assert (without.name, without.prepared) == ("prepared", prepared_small.directory)
    for _ in range(2):
        lessons.load_failed(without, "SIGBUS")
    (choice,) = candidates(small, settings, lessons)
    assert choice.form.name == "published"
    assert any("SIGBUS" in problem for problem in choice.problems)
    assert "SIGSEGV" in (choice.missing or "")
    for _ in range(5):
        lessons.load_failed(choice.form, "SIGBUS", last=choice.last)
    assert form().name == "published"  # there is nothing else to load
    lessons.begin_again()
    assert form().key == best.key
    assert not lessons.unusable
    assert not lessons.failed


def test_a_graph_that_cannot_be_mapped_is_not_chosen(
    small: models.ModelLocation, prepared_small: PreparedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prepared_small.directory.parent
    assert candidate(small, serving(store)).prediction.graph == "mapped"
    monkeypatch.setattr(mapping, "mapping_problem", lambda: "the engine would copy it")
    choice = candidate(small, serving(store))
    assert (choice.form.prepared, choice.prediction.graph) == (None, "lazy")
    assert "is not used: the engine would copy it" in choice.problems[0]


def test_the_engine_that_is_installed_maps() -> None:
    assert mapping.mapping_problem() is None


# --- built programs -------------------------------------------------------------------------------


def test_what_does_not_start_is_built_again(tmp_path: Path) -> None:
    target = SIMD.path(tmp_path)
    target.parent.mkdir()
    target.write_bytes(b"")  # as after a power cut
    assert SIMD.find(tmp_path) is None
    built = SIMD.build(tmp_path)
    assert built == target
    assert SIMD.find(tmp_path) == built
    built.write_bytes(built.read_bytes()[:5000])
    os.utime(built, (1, 1))
    assert SIMD.find(tmp_path) is None


def test_an_older_library_that_is_installed_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "old.cc"
    source.write_text('extern "C" int modelserver_simd_attach(const char*, const char*);\n')
    (tmp_path / "lib").mkdir()
    old = tmp_path / "lib" / LIBRARY
    subprocess.run(["g++", "-shared", "-fPIC", "-o", str(old), str(source)], check=True)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    assert SIMD.find(tmp_path / "none") is None
