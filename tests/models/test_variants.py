"""Variants of models: each is prepared, mapped, and recognises files and streams."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import share_compiler
from running import RunningServer, start_server
from variants import VARIANTS
from websockets.sync.client import connect

import models
from models.vosk.features import sample_rate_of
from models.vosk.prepared import PreparedModel, find_prepared, prepare

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module", params=VARIANTS)
def variant(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    small: models.ModelLocation,
    prepared_small: PreparedModel,
) -> models.ModelLocation:
    home = tmp_path_factory.mktemp("variant")
    return VARIANTS[request.param](small, prepared_small, home)


@pytest.fixture(scope="module")
def prepared(
    variant: models.ModelLocation,
    prepared_small: PreparedModel,
    tmp_path_factory: pytest.TempPathFactory,
    cache: Path,
) -> PreparedModel:
    """Made from the same graphs as the small model, what was prepared of that one is used; but a
    name that is unusual gets its own."""
    store = tmp_path_factory.mktemp("store")
    share_compiler(cache, store)
    if variant.name.isascii():
        copy = store / prepared_small.directory.name
        shutil.copytree(prepared_small.directory, copy, symlinks=True)
    return prepare(variant, store, available_memory=10**12)


@pytest.fixture(scope="module")
def server(
    variant: models.ModelLocation, prepared: PreparedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    with start_server(
        tmp_path_factory.mktemp("server"),
        f"--model={variant.directory}",
        f"--language={variant.language}",
        MODELSERVER_PREPARED_DIR=str(prepared.directory.parent),
        MODELSERVER_WORKERS_COUNT="1",
        MODELSERVER_STREAMS_SHARE="1",
    ) as running:
        running.wait_ready()
        yield running


def test_it_is_prepared_and_found_again(
    variant: models.ModelLocation, prepared: PreparedModel
) -> None:
    lookup = find_prepared(variant, prepared.directory.parent)
    assert lookup.prepared is not None
    assert lookup.prepared.directory == prepared.directory


def test_it_is_served_mapped_and_recognises_a_file(
    server: RunningServer, variant: models.ModelLocation, wav_clips: list[bytes]
) -> None:
    (loaded,) = server.events("model.loaded")
    assert loaded["details"]["graph"] == "mapped"
    assert loaded["model"] == variant.name
    assert server.health()["status"] == "ok"
    answer = server.convert(wav_clips[2], "?words=true")
    assert answer.status == 200
    if sample_rate_of(variant.directory) == 16_000:  # else it was trained on another rate
        assert "어제" in answer.json["text"]
    again = server.convert(wav_clips[2], "?words=true")
    assert again.json["text"] == answer.json["text"]


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_it_recognises_streams_of_other_rates(
    server: RunningServer, clips: list[bytes], rate: int
) -> None:
    pcm = clips[2]
    if rate == 8_000:
        pcm = b"".join(pcm[at : at + 2] for at in range(0, len(pcm), 4))
    with connect(server.url.replace("http", "ws", 1)) as client:
        client.send(json.dumps({"config": {"sample_rate": rate}}))
        for at in range(0, len(pcm), 6400):
            client.send(pcm[at : at + 6400])
            assert "partial" in (answer := str(client.recv())) or "text" in answer
        client.send('{"eof" : 1}')
        assert "text" in json.loads(client.recv())
    assert not server.events("stream.crashed")
