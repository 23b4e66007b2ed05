"""Models from several servers, each with its layout: the first that has one is used."""

import bz2
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from misbehaving import Manners, web_server
from onnx_models import make_model

import models
import models.fetching.install
import models.fetching.waiting
from models.fetching import broken_downloads, pull
from models.fetching.sources import DEFAULT_SOURCES, sources_of

NAME = "sherpa-onnx-xx-2026-01-01"
REPOSITORY = f"somebody/{NAME}"
PARTS = {
    "am/final.mdl": os.urandom(300_000),
    "graph/HCLG.fst": os.urandom(200_000),
    "conf/mfcc.conf": b"--use-energy=false\n",
}
ENTRY = models.CatalogEntry(
    NAME, "Test", engine="onnx", repository=REPOSITORY, files=tuple(PARTS), languages=("xx",)
)
HUB = "/{repository}/resolve/main/{file}"
MODELSCOPE = "/models/{repository}/resolve/master/{file}"


def tarred(parts: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as writer:
        for inside, content in parts.items():
            info = tarfile.TarInfo(f"{NAME}/{inside}")
            info.size = len(content)
            writer.addfile(info, io.BytesIO(content))
    return bz2.compress(file.getvalue())


ARCHIVE = tarred(PARTS)
GITHUB = {f"k2-fsa/sherpa-onnx/releases/download/asr-models/{NAME}.tar.bz2": ARCHIVE}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(models.fetching.install, "catalog_entry", {NAME: ENTRY}.get)
    return None


def hub(layout: str = HUB, parts: dict[str, bytes] = PARTS) -> dict[str, bytes]:
    address = layout.removeprefix("/").replace("{repository}", REPOSITORY)
    return {address.replace("{file}", file): content for file, content in parts.items()}


def nothing(*_: object) -> None:
    pass


async def fetch(home: Path, *sources: str, repin: bool = False) -> Path:
    return await pull(NAME, home, sources, nothing, pause_s=0.001, repin=repin)


def whole(home: Path) -> bool:
    return all((home / NAME / inside).read_bytes() == data for inside, data in PARTS.items())


def left(home: Path) -> set[str]:
    return {str(file.relative_to(home)) for file in home.rglob("*") if file.is_file()}


INSTALLED = {f"{NAME}/{inside}" for inside in PARTS} | {".pins.json"}


def pins(home: Path) -> dict[str, dict[str, str]]:
    pinned: dict[str, dict[str, str]] = json.loads((home / ".pins.json").read_text())
    return pinned


async def test_an_archive_of_a_release_is_installed(home: Path) -> None:
    with web_server(Manners(GITHUB)) as url:
        await fetch(home, f"{url}/k2-fsa/sherpa-onnx/releases/download/asr-models")
    assert whole(home)
    assert left(home) == INSTALLED
    assert list(pins(home)) == [NAME]


@pytest.mark.parametrize("layout", [HUB, MODELSCOPE])
async def test_a_model_is_installed_file_by_file(home: Path, layout: str) -> None:
    with web_server(Manners(hub(layout))) as url:
        await fetch(home, url + layout)
    assert whole(home)
    assert left(home) == INSTALLED
    assert list(pins(home)) == [f"{NAME}/{file}" for file in PARTS]


async def test_files_that_broke_off_are_gone_on_with(home: Path) -> None:
    manners = Manners(hub(), break_at=250_000, breaks=1)
    manners.before[2] = lambda: setattr(manners, "status", 503)
    with web_server(manners) as url:
        with pytest.raises(models.ModelError, match="250000 bytes of it are stored"):
            await fetch(home, url + HUB)
        assert [path.lock.name for path in broken_downloads(home) if path.lock] == [f"{NAME}.lock"]
        manners.status = None
        await fetch(home, url + HUB)
    assert whole(home)
    assert left(home) == INSTALLED
    asked = [(path.rpartition("/")[2], part) for path, part in manners.requests]
    assert asked[-3:] == [("final.mdl", "bytes=250000-"), ("HCLG.fst", None), ("mfcc.conf", None)]


async def test_a_file_that_is_not_there_leaves_none_behind(home: Path) -> None:
    some = {path: data for path, data in hub().items() if "mfcc" not in path}
    with (
        web_server(Manners(some)) as url,
        pytest.raises(models.ModelError, match=r"conf/mfcc.conf cannot be downloaded: .* 404"),
    ):
        await fetch(home, url + HUB)
    assert left(home) == set()


async def test_a_changed_file_is_refused_and_accepted_by_hand(home: Path) -> None:
    manners = Manners(hub())
    with web_server(manners) as url:
        directory = await fetch(home, url + HUB)
        directory.rename(home.parent / "elsewhere")
        manners.files = hub(parts=PARTS | {"conf/mfcc.conf": b"--use-energy=true\n"})
        with pytest.raises(models.ModelError, match=r"mfcc.conf has a wrong checksum"):
            await fetch(home, url + HUB)
        assert left(home) == {".pins.json"}
        await fetch(home, url + HUB, repin=True)
    assert (home / NAME / "conf/mfcc.conf").read_bytes() == b"--use-energy=true\n"


@pytest.mark.parametrize(
    "first",
    [
        {"files": {}},
        {"files": {}, "status": 503},
        {"files": {f"{NAME}.tar.bz2": b"<!DOCTYPE html><title>Blocked here</title>"}},
        {"files": {f"{NAME}.tar.bz2": ARCHIVE[:5000]}},
        {"files": {f"{NAME}.tar.bz2": tarred({"README": b"no model"})}},
        {"files": {f"{NAME}.tar.bz2": ARCHIVE}, "endless": True},
        {"files": {f"{NAME}.tar.bz2": ARCHIVE}, "break_at": 1000, "breaks": 1, "wrong_range": True},
    ],
)
async def test_the_next_server_is_asked_where_one_fails(
    home: Path, first: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.fetching.waiting, "_MOST_BYTES", 10**7)
    with (
        web_server(Manners(**first)) as bad,  # type: ignore[arg-type]
        web_server(Manners({f"{NAME}.tar.bz2": ARCHIVE})) as good,
    ):
        await fetch(home, "http://127.0.0.1:1", bad, good, good + HUB)
        assert pins(home)[NAME]["source"] == f"{good}/{NAME}.tar.bz2"
    assert whole(home)
    assert left(home) == INSTALLED


async def test_a_failure_names_each_server(home: Path) -> None:
    with web_server(Manners({})) as url, pytest.raises(models.ModelError) as caught:
        await fetch(home, "http://127.0.0.1:1", url, url + HUB)
    assert caught.value.code == "download_failed"
    lines = caught.value.message.splitlines()
    assert lines[0] == f"{NAME} cannot be downloaded:"
    assert "Connection refused" in lines[1]
    assert f"{url}/{NAME}.tar.bz2" in lines[2]
    assert "answered 404" in lines[2]
    assert f"{url}/{REPOSITORY}/resolve/main/am/final.mdl" in lines[3]
    assert left(home) == set()


async def test_what_one_server_began_is_kept_while_others_are_asked(home: Path) -> None:
    manners = Manners({f"{NAME}.tar.bz2": ARCHIVE}, break_at=150_000, breaks=1)
    manners.before[2] = lambda: setattr(manners, "status", 503)
    with web_server(manners) as url, web_server(Manners({})) as other:
        with pytest.raises(models.ModelError, match="150000 bytes of it are stored") as caught:
            await fetch(home, url, other)
        assert caught.value.code == "download_broken"
        manners.status = None
        await fetch(home, url, other)
    assert manners.requests[-1][1] == "bytes=150000-"
    assert whole(home)
    assert left(home) == INSTALLED


async def test_a_busy_server_is_not_asked_often_while_there_are_others(home: Path) -> None:
    busy, alone = Manners({}, status=503), Manners({}, status=503)
    with (
        web_server(busy) as first,
        web_server(alone) as last,
        pytest.raises(models.ModelError, match="answered 503"),
    ):
        await fetch(home, first, last)
    assert (len(busy.requests), len(alone.requests)) == (2, 5)


async def test_a_disk_that_is_full_is_full_for_all_servers(small_disk: Path) -> None:
    big = Manners({f"{NAME}.tar.bz2": ARCHIVE}, claims=10**9)
    with (
        web_server(big) as url,
        web_server(Manners(hub())) as other,
        pytest.raises(models.ModelError, match="needs 1000000000 bytes more"),
    ):
        await fetch(small_disk / "models", url, other + HUB)


async def test_a_template_must_make_sense(home: Path) -> None:
    with pytest.raises(models.ModelError, match=r"\{model\} is unknown; there are: \{name\}"):
        await fetch(home, "http://127.0.0.1:1/{model}")


def test_each_engine_has_its_publishers() -> None:
    found, problems = sources_of(NAME, ENTRY, ())
    assert [source.archive for source in found][:1] == [
        f"https://github.com/k2-fsa/sherpa-onnx/releases/download/asr-models/{NAME}.tar.bz2"
    ]
    assert [source.files[0][1] for source in found[1:]] == [
        f"https://{host}/{REPOSITORY}/resolve/main/am/final.mdl"
        for host in ("huggingface.co", "hf-mirror.com")
    ]
    assert problems == []
    # The catalogue knows neither repository nor files of it.
    found, problems = sources_of("sherpa-onnx-yy", None, ())
    assert len(found) == 1
    assert [problem.message for problem in problems] == [
        f"{address}: the catalogue has no repository of sherpa-onnx-yy"
        for address in DEFAULT_SOURCES["onnx"][1:]
    ]
    entry = models.catalog_entry("punct-en")
    assert entry is not None
    for (source, *_), name in (
        (sources_of(entry.name, entry, ())[0], entry.name),
        (sources_of("sherpa-onnx-punct-yy", None, ())[0], "sherpa-onnx-punct-yy"),
    ):
        release = "https://github.com/k2-fsa/sherpa-onnx/releases/download/punctuation-models"
        assert source.archive == f"{release}/{name}.tar.bz2"
    (vosk,), _ = sources_of("vosk-model-yy-0.1", None, ())
    assert vosk.archive == "https://alphacephei.com/vosk/models/vosk-model-yy-0.1.zip"
    (proxied,), _ = sources_of(NAME, ENTRY, ["https://proxy.example/{archive}?from={name}"])
    assert proxied.archive == f"https://proxy.example/{NAME}.tar.bz2?from={NAME}"


async def test_a_model_for_sherpa_onnx_is_installed(home: Path, tmp_path: Path) -> None:
    made = make_model("whisper", tmp_path / NAME)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:bz2") as writer:
        writer.add(made, NAME)
    with web_server(Manners({f"{NAME}.tar.bz2": file.getvalue()})) as url:
        directory = await fetch(home, url)
    assert models.engine_of(directory).name == "onnx"
    assert NAME in [location.name for location in models.installed_models(home)]
    for network in directory.glob("*.onnx"):
        network.rename(tmp_path / network.name)
    with pytest.raises(models.ModelError, match=r"exists and is not a model \(.*\(onnx\)\)"):
        await fetch(home, url)
