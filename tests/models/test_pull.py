"""`modelserver models pull` against a web server that misbehaves in every way it can."""

import contextlib
import hashlib
import io
import json
import os
import stat
import struct
import subprocess
import sys
import tracemalloc
import unittest.mock
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from misbehaving import Manners, web_server
from running import free_port

import models
import models.fetching.download
import models.fetching.install
from models.fetching import pull, pull_file
from models.fetching.unpack import ArchiveLimits, top_directory, unpack

NAME = "vosk-model-xx-0.1"
PARTS = {
    "am/final.mdl": os.urandom(300_000),
    "graph/HCLG.fst": os.urandom(200_000),
    "conf/mfcc.conf": b"--use-energy=false\n",
}


def archive(name: str = NAME, parts: dict[str, bytes] | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr(f"{name}/", "")
        for inside, content in (PARTS if parts is None else parts).items():
            writer.writestr(f"{name}/{inside}", content)
    return file.getvalue()


ARCHIVE = archive()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The catalogue knows the model, its size and its checksum."""
    digest = hashlib.sha256(ARCHIVE).hexdigest()
    entry = models.CatalogEntry(NAME, "Test", "small", size=len(ARCHIVE), sha256=digest)
    monkeypatch.setattr(models.fetching.install, "catalog_entry", {NAME: entry}.get)
    return None


def nothing(*_: Any) -> None:
    pass


async def fetch(url: str, home: Path, name: str = NAME) -> Path:
    return await pull(name, home, [url], nothing, pause_s=0.001)


def left(home: Path) -> list[str]:
    return sorted(str(file.relative_to(home)) for file in home.rglob("*") if file.is_file())


def whole(home: Path) -> bool:
    return all((home / NAME / inside).read_bytes() == data for inside, data in PARTS.items())


async def test_a_model_is_fetched_checked_unpacked_and_found(home: Path, known: None) -> None:
    seen: list[str] = []
    with web_server(Manners({f"{NAME}.zip": ARCHIVE})) as url:
        directory = await pull(
            NAME, home, [url + "/"], lambda phase, *_: seen.append(phase), pause_s=0.001
        )
    assert (directory, whole(home)) == (home / NAME, True)
    assert list(dict.fromkeys(seen)) == ["download", "check", "unpack"]
    assert left(home) == sorted(f"{NAME}/{inside}" for inside in PARTS)
    assert next(m.name for m in models.installed_models(home)) == NAME
    assert stat.S_IMODE((home / NAME / "am/final.mdl").stat().st_mode) & 0o111 == 0


async def test_a_download_that_breaks_off_goes_on_where_it_was(home: Path, known: None) -> None:
    manners = Manners({f"{NAME}.zip": ARCHIVE}, break_at=100_000)
    with web_server(manners) as url:
        await fetch(url, home)
    assert whole(home)
    ranges = [asked for _, asked in manners.requests]
    assert ranges[0] is None
    assert ranges[1:] == [f"bytes={n * 100_000}-" for n in range(1, len(ranges))]


async def test_what_broke_off_for_good_is_gone_on_with_by_the_next_command(
    home: Path, known: None
) -> None:
    manners = Manners({f"{NAME}.zip": ARCHIVE}, break_at=150_000, breaks=1)
    manners.before[2] = lambda: setattr(manners, "status", 503)
    with web_server(manners) as url:
        with pytest.raises(models.ModelError, match="150000 bytes of it are stored") as caught:
            await fetch(url, home)
        assert caught.value.code == "download_broken"
        assert left(home) == [f".fetch/{NAME}.zip.json", f".fetch/{NAME}.zip.partial"]
        assert models.installed_models(home) == models.installed_models(Path("/nonexistent"))
        manners.status = None
        await fetch(url, home)
    assert whole(home)
    assert manners.requests[-1][1] == "bytes=150000-"
    assert not (home / ".fetch").exists()


async def test_a_file_that_has_changed_meanwhile_is_begun_again(home: Path, known: None) -> None:
    older = b"an older file of the same length"
    manners = Manners({f"{NAME}.zip": (older * 20_000)[: len(ARCHIVE)]}, break_at=100_000, breaks=1)

    def change() -> None:
        manners.files[f"{NAME}.zip"], manners.etag = ARCHIVE, '"two"'

    manners.before[2] = change
    with web_server(manners) as url:
        await fetch(url, home)
    assert whole(home)


async def test_a_server_without_ranges_is_asked_for_all_of_it_again(
    home: Path, known: None
) -> None:
    manners = Manners({f"{NAME}.zip": ARCHIVE}, ranges=False, break_at=100_000, breaks=2)
    with web_server(manners) as url:
        await fetch(url, home)
    assert whole(home)
    assert [asked for _, asked in manners.requests] == [None] * 3


async def test_a_server_that_is_busy_for_a_moment_is_asked_again(home: Path, known: None) -> None:
    with web_server(Manners({f"{NAME}.zip": ARCHIVE}, fails=3)) as url:
        await fetch(url, home)
    assert whole(home)


@pytest.mark.parametrize(
    ("manners", "says"),
    [
        ({"files": {}}, "answered 404"),
        ({"status": 403}, "answered 403"),
        ({"status": 500}, "answered 500"),
        ({"ranges": False, "break_at": 1000}, "cannot be downloaded"),
        ({"ranges": False, "break_at": 0}, "cannot be downloaded"),
        ({"claims": 12}, "has 12 bytes"),
        ({"claims": 10**12}, "has 1000000000000 bytes"),
        # Whether the surplus is seen before the claim depends on how the network cuts them.
        ({"claims": 12, "overruns": True}, "has 12 bytes|cannot be downloaded"),
        ({"endless": True}, "is larger than"),
        ({"files": {f"{NAME}.zip": ARCHIVE[:-1] + b"x"}}, "its sha256 is"),
        ({"files": {f"{NAME}.zip": archive(parts={})}}, "bytes; "),
        ({"chunked": True, "files": {f"{NAME}.zip": ARCHIVE[:5000]}, "ranges": False}, "5000 of"),
        ({"chunked": True, "files": {f"{NAME}.zip": ARCHIVE + b"x"}}, "is larger than"),
        ({"wrong_range": True, "break_at": 1000, "breaks": 1}, "sent another part"),
    ],
)
async def test_a_broken_or_lying_server_leaves_nothing_behind(
    home: Path, known: None, manners: dict[str, Any], says: str
) -> None:
    behaviour = Manners(**{"files": {f"{NAME}.zip": ARCHIVE}} | manners)
    with web_server(behaviour) as url, pytest.raises(models.ModelError, match=says):
        await fetch(url, home)
    assert left(home) == []
    assert not (home / NAME).exists()


async def test_a_server_that_says_nothing_more_is_given_up(
    home: Path, known: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    bounds = models.fetching.download.Bounds(len(ARCHIVE), len(ARCHIVE))
    manners = Manners({f"{NAME}.zip": ARCHIVE}, stalls=True, ranges=False)
    with web_server(manners) as url, pytest.raises(models.ModelError, match="cannot be downloaded"):
        await models.fetching.download.download(
            f"{url}/{NAME}.zip", home / "x.zip", bounds, nothing, stall_s=0.05, pause_s=0.001
        )
    assert left(home) == []


async def test_nobody_there_is_said(home: Path, known: None) -> None:
    with web_server(Manners({})) as url:
        pass
    with pytest.raises(models.ModelError, match=r"no connection to .*: Connection refused"):
        await fetch(url, home)
    assert left(home) == []


async def test_the_proxy_of_the_environment_is_used(
    home: Path, known: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    manners = Manners({f"{NAME}.zip": ARCHIVE})
    with web_server(manners) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        await fetch("http://models.invalid/vosk", home)
    assert whole(home)
    assert manners.requests[0][0] == f"http://models.invalid/vosk/{NAME}.zip"


async def test_an_unknown_model_is_pinned_to_what_was_fetched_first(home: Path) -> None:
    manners = Manners({f"{NAME}.zip": ARCHIVE})
    with web_server(manners) as url:
        directory = await fetch(url, home)
        pins = (home / ".pins.json").read_text()
        assert hashlib.sha256(ARCHIVE).hexdigest() in pins
        for file in sorted(directory.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        directory.rmdir()
        manners.files[f"{NAME}.zip"] = archive(parts=PARTS | {"README": b"not what it was"})
        with pytest.raises(models.ModelError, match="its sha256 is"):
            await fetch(url, home)
        assert left(home) == [".pins.json"]
        manners.files[f"{NAME}.zip"] = ARCHIVE
        await fetch(url, home)
    assert whole(home)
    assert (home / ".pins.json").read_text() == pins


async def test_an_installed_model_is_not_replaced(home: Path, known: None) -> None:
    (home / NAME / "am").mkdir(parents=True)
    with pytest.raises(models.ModelError, match=r"is not a model .*: remove it first"):
        await fetch("http://127.0.0.1:1", home)
    (home / NAME / "graph").mkdir(parents=True)
    (home / NAME / "am" / "final.mdl").touch()
    (home / NAME / "graph" / "HCLG.fst").touch()
    with pytest.raises(models.ModelError, match="is installed already"):
        await fetch("http://127.0.0.1:1", home)


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "-x", "x" * 200])
async def test_a_name_that_is_none_is_refused(home: Path, name: str) -> None:
    with pytest.raises(models.ModelError, match="is not the name of a model"):
        await fetch("http://127.0.0.1:1", home, name)


# --- archives -------------------------------------------------------------------------------------


def zipped(
    *entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as writer:
        for name, content in entries:
            writer.writestr(name, content)
    return file.getvalue()


def link(name: str, target: str) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target.encode()


def patched(data: bytes, at_signature: bytes, offset: int, value: bytes) -> bytes:
    """Return the same archive with some bytes of a header changed."""
    at = data.index(at_signature) + offset
    return data[:at] + value + data[at + len(value) :]


CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"
LYING = zipped(("m/am/final.mdl", b"x" * 5000))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a complete zip archive"),
        (b"<!DOCTYPE html><title>Not Found</title>", "begins with b'<!DOCTYPE"),
        (ARCHIVE[: len(ARCHIVE) // 2], "not a complete zip archive"),
        (zipped(("m/../../evil", b"x")), "lead out"),
        (zipped(("/etc/evil", b"x")), "lead out"),
        (zipped(("m\\..\\evil", b"x")), "lead out"),
        (zipped(("C:/evil", b"x")), "lead out"),
        (zipped((".ssh/authorized_keys", b"x")), "hidden"),
        (zipped(link("m/am", "/etc")), "is a link"),
        (zipped(("m/a", b""), ("n/b", b"")), "2 things at its top"),
        (zipped(("final.mdl", b"x")), "a file where"),
        (zipped(("m/" + "d/" * 20 + "x", b"")), "nested"),
        (zipped(("m/" + "n" * 250, b"")), "nested or named"),
        (zipped(("m/A", b"1"), ("m/a", b"2")), "twice"),
        (zipped(("m/bomb", bytes(20_000_000))), "times its size"),
        (zipped(*((f"m/{n}", b"") for n in range(5000))), "5000 entries"),
        # A block of these is unpacked whole, however long it is.
        (zipped(("m/a", bytes(1000)), method=zipfile.ZIP_BZIP2), "packed by a method"),
        (zipped(("m/a", bytes(1000)), method=zipfile.ZIP_LZMA), "packed by a method"),
        (zipped(*((f"m/{n:0>200}", b"") for n in range(40_000))), "lists 40000 entries"),
        (patched(LYING, CENTRAL, 8, b"\x01\x00"), "encrypted"),
        (patched(LYING, CENTRAL, 24, struct.pack("<I", 4000)), "m/am/final.mdl"),
        (patched(LYING, CENTRAL, 24, struct.pack("<I", 6000)), "m/am/final.mdl"),
        (patched(LYING, CENTRAL, 16, b"\0\0\0\0"), "cannot be unpacked"),
        (zipped(("m/README", b"no model")), "holds no model"),
    ],
)
def test_a_malicious_or_damaged_archive_leaves_nothing_behind(
    home: Path, tmp_path: Path, data: bytes, says: str
) -> None:
    file = tmp_path / "archive.zip"
    file.write_bytes(data)
    with pytest.raises(models.ModelError, match=says):
        pull_file(file, home, nothing)
    assert not home.exists() or left(home) == []
    assert {path.name for path in tmp_path.iterdir()} <= {"archive.zip", "models"}


def listing(entries: int, *, record_at: int = 0, between: bytes = b"") -> bytes:
    """Return an archive with `entries` entries by its ZIP64 record, and with one by the classic
    one."""
    name = b"m/"
    data = b"PK\x03\x04" + struct.pack("<5H3L2H", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0) + name
    begin = len(data)
    entry = struct.pack("<4B4H3L5H2L", 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0)
    data += b"".join(b"PK\x01\x02" + entry + b"m/%08d" % n for n in range(entries))
    length, end = len(data) - begin, len(data)
    record = struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, entries, entries, length, begin)
    data += b"PK\x06\x06" + record + between
    data += b"PK\x06\x07" + struct.pack("<LQL", 0, end + record_at, 1)
    return data + b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 1, 1, 56, begin, 0)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (listing(80_000), "lists 80000 entries in 4480000 bytes"),
        (listing(80_000, record_at=1), "ZIP64 record is not where it says"),
        (listing(80_000, between=b"x"), "ZIP64 record is not where it belongs"),
        # The mark of the record stands inside it too, in a field that nothing reads.
        (listing(80_000)[:-6] + b"PK\x05\x06" + bytes(2), "lists 80000 entries"),
        (listing(80_000)[:-2] + struct.pack("<H", 22) + b"PK\5\6" + bytes(18), "holds 0 things"),
    ],
)
def test_a_list_of_entries_is_bounded_before_it_is_read(
    home: Path, tmp_path: Path, data: bytes, says: str
) -> None:
    file = tmp_path / "archive.zip"
    file.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(models.ModelError, match=says):
            pull_file(file, home, nothing)
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()


def test_a_zip64_archive_of_a_usual_size_is_installed(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "archive.zip"
    with zipfile.ZipFile(file, "w") as writer:
        for inside, content in PARTS.items():
            writer.writestr(f"{NAME}/{inside}", content)
        with unittest.mock.patch("zipfile.ZIP64_LIMIT", 1):
            writer.close()
    assert b"PK\x06\x06" in file.read_bytes()
    pull_file(file, home, nothing)
    assert whole(home)


def test_an_archive_may_not_unpack_to_more_than_its_bound(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    file.write_bytes(ARCHIVE)
    with file.open("rb") as opened:
        with pytest.raises(models.ModelError, match="would unpack to 500019 bytes"):
            unpack(opened, tmp_path, nothing, ArchiveLimits(unpacked=400_000))
        assert top_directory(opened) == NAME


def test_a_full_disk_is_said_before_anything_is_written(small_disk: Path, tmp_path: Path) -> None:
    file = tmp_path / "big.zip"
    file.write_bytes(archive(parts=PARTS | {"more": os.urandom(1_000_000)}))
    with pytest.raises(models.ModelError, match=r"bytes unpacked, \d+ are free"):
        pull_file(file, small_disk, nothing)
    assert left(small_disk) == []


def test_a_replaced_archive_is_accepted_by_hand_only(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "archive.zip"
    file.write_bytes(ARCHIVE)
    pull_file(file, home, nothing)
    command("remove", NAME, home=home)
    file.write_bytes(archive(parts=PARTS | {"README": b"another version"}))
    refused = command("pull", str(file), home=home)
    assert refused.returncode == 1
    assert f"but {home / '.pins.json'} has" in refused.stderr
    assert "models pull --repin" in refused.stderr
    done = command("pull", "--repin", str(file), home=home)
    assert done.returncode == 0, done.stderr
    assert (home / NAME / "README").read_bytes() == b"another version"
    command("remove", NAME, home=home)
    assert command("pull", str(file), home=home).returncode == 0  # which is pinned now


def test_what_was_put_there_by_hand_can_be_removed(home: Path) -> None:
    for name in ("my model", "模型"):
        (home / name / "am").mkdir(parents=True)
        done = command("remove", name, home=home)
        assert done.returncode == 0, done.stderr
        assert not (home / name).exists()


# --- by hand --------------------------------------------------------------------------------------


def command(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelserver", "models", *arguments, "--models-dir", str(home)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_zip_file_that_is_here_is_installed_and_listed(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "download.zip"
    file.write_bytes(ARCHIVE)
    run = command("pull", str(file), home=home)
    assert (run.returncode, f"installed {NAME}" in run.stdout) == (0, True), run.stderr
    assert file.exists()
    listed = command("list", home=home)
    line = next(line for line in listed.stdout.splitlines() if NAME in line)
    assert line.startswith("* ")
    small = next(line for line in listed.stdout.splitlines() if "small-cn-0.22" in line)
    assert "23.5 %" in small
    assert "to fetch" in small
    missing = command("pull", str(tmp_path / "missing.zip"), home=home)
    assert (missing.returncode, "missing.zip: No such file" in missing.stderr) == (1, True)
    again = command("pull", str(file), home=home)
    assert (again.returncode, "installed already" in again.stderr) == (0, True)


def test_for_a_directory_that_is_here_it_says_how_to_serve_it(home: Path, tmp_path: Path) -> None:
    directory = tmp_path / "whisper"
    directory.mkdir()
    run = command("pull", str(directory), home=home)
    assert run.returncode == 1
    assert f"`modelserver serve --model {directory}`" in run.stderr
    assert f"{home / 'whisper'}" in run.stderr


def test_the_setting_names_the_mirror(home: Path) -> None:
    with web_server(Manners({f"{NAME}.zip": ARCHIVE})) as url:
        run = command("pull", NAME, "--models-urls", url, home=home)
    assert run.returncode == 0, run.stderr
    assert whole(home)
    # Again, as a script does each time: nothing to do, and no server is asked.
    again = command("pull", NAME, "--models-urls", url, home=home)
    assert (again.returncode, "installed already" in again.stderr) == (0, True)


def test_what_killed_ones_have_left_is_cleared_away(home: Path, tmp_path: Path) -> None:
    left_over = home / ".fetch" / f"unpacking-{NAME}-x"
    left_over.mkdir(parents=True)
    (left_over / "half").write_bytes(b"x" * 1000)
    file = tmp_path / "archive.zip"
    file.write_bytes(ARCHIVE)
    pull_file(file, home, nothing)
    assert not left_over.exists()


def test_an_archive_that_is_exchanged_while_it_is_checked_is_not_unpacked(
    home: Path, tmp_path: Path
) -> None:
    file, other = tmp_path / "archive.zip", tmp_path / "other.zip"
    file.write_bytes(ARCHIVE)
    other.write_bytes(archive(parts=PARTS | {"am/final.mdl": b"evil"}))

    def exchange(phase: str, done: int, total: int) -> None:
        if phase == "check" and other.exists():
            other.rename(file)

    pull_file(file, home, exchange)
    assert whole(home)


def test_many_who_pull_at_once_all_leave_their_pins(home: Path) -> None:
    home.mkdir()
    record = "import sys; from pathlib import Path; from models.fetching.pins import record_pin\n"
    record += "for n in range(5): record_pin(Path(sys.argv[1]), f'{sys.argv[2]}-{n}', "
    record += "sha256='0', size=1, source='here')"
    running = [
        subprocess.Popen([sys.executable, "-c", record, str(home), f"model{n}"]) for n in range(6)
    ]
    assert [process.wait(60) for process in running] == [0] * 6
    assert len(json.loads((home / ".pins.json").read_text())) == 30


async def test_a_download_that_has_no_room_is_not_begun(small_disk: Path, known: None) -> None:
    manners = Manners({f"{NAME}.zip": ARCHIVE}, claims=10**9)
    entry = models.CatalogEntry(NAME, "Test", "small", size=10**9)
    with (
        unittest.mock.patch("models.fetching.install.catalog_entry", {NAME: entry}.get),
        web_server(manners) as url,
        pytest.raises(models.ModelError, match="needs 1000000000 bytes more, and"),
    ):
        await fetch(url, small_disk / "models")
    assert left(small_disk) == []


async def test_more_than_was_announced_is_not_believed(home: Path) -> None:
    """Send more in the part after a download broke off, too."""
    manners = Manners({f"{NAME}.zip": ARCHIVE}, break_at=1000, breaks=1)
    manners.before[2] = lambda: manners.files.update({f"{NAME}.zip": ARCHIVE + b"more"})
    with web_server(manners) as url, contextlib.suppress(models.ModelError):
        await fetch(url, home)
    installed = home / NAME
    assert not installed.exists() or whole(home)


def test_a_pulled_model_can_be_removed(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "archive.zip"
    file.write_bytes(ARCHIVE)
    pull_file(file, home, nothing)
    done = command("remove", NAME, home=home)
    assert (done.returncode, f"removed {home / NAME}" in done.stdout) == (0, True), done.stderr
    assert not (home / NAME).exists()
    for name in (NAME, "../models", ".pins.json"):
        again = command("remove", name, home=home)
        assert (again.returncode, "there is no" in again.stderr) == (1, True)


def test_the_old_spelling_names_the_command_that_replaced_it(home: Path) -> None:
    done = command("uninstall", "my model", home=home)
    assert done.returncode == 1
    assert "use `modelserver models remove 'my model' --models-dir" in done.stderr


def test_root_leaves_nothing_in_a_service_s_directory(home: Path, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("what only root can do")
    file = tmp_path / "archive.zip"
    file.write_bytes(ARCHIVE)
    home.mkdir()
    os.chown(home, 12345, 12345)
    done = command("pull", str(file), home=home)
    assert done.returncode == 1
    assert f"sudo -u '#12345' modelserver models pull {file}" in done.stderr
    assert list(home.iterdir()) == []


def test_a_model_that_cannot_be_downloaded_leaves_ways_to_try(home: Path, tmp_path: Path) -> None:
    nowhere = "--models-urls=http://none.invalid/models"
    for name, says in (
        ("vosk-model-small-en", "did you mean vosk-model-small-en-"),
        ("whisper", "did you mean sherpa-onnx-whisper-tiny or sherpa-onnx-whisper-base or "),
        ("nonsense", "nonsense is not in the catalogue"),
        ("vosk-model-small-cn-0.22", "none.invalid"),
    ):
        failed = command("pull", name, nowhere, home=home)
        assert failed.returncode == 1
        assert says in failed.stderr
        assert ("catalogue" in failed.stderr) == (name != "vosk-model-small-cn-0.22")
        assert "FILE.zip" in failed.stderr
        assert "models_urls" in failed.stderr


def test_a_failed_download_names_only_addresses_that_were_tried(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    name = "sherpa-onnx-nemo-parakeet_tdt_ctc_110m-en-36000-int8"
    assert models.catalog_entry(name).repository == ""  # type: ignore[union-attr]
    failed = command("pull", name, home=home)
    assert failed.returncode == 1
    assert f"{name}.tar.bz2 cannot be downloaded" in failed.stderr
    assert "{repository}" not in failed.stderr
    named = command("pull", name, "--models-urls=https://none.invalid/{repository}", home=home)
    assert f"the catalogue has no repository of {name}" in named.stderr


def test_a_list_says_what_it_leaves_out(home: Path, tmp_path: Path) -> None:
    listed = command("list", "--for", "zh", home=home)
    assert "* would be served" not in listed.stdout
    assert "`modelserver serve` loads vosk-model-small-ko-0.22, which is not in" in listed.stdout
    assert "* would be served" in command("list", home=home).stdout
    unknown = command("list", "--for", "tlh", home=home)
    assert unknown.returncode == 1
    assert "'tlh'" in unknown.stderr


def test_a_file_that_is_not_an_exported_model_is_called_that(home: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    failed = command("import", str(tmp_path / "notes.txt"), home=home)
    assert failed.returncode == 1
    assert "notes.txt is not what `modelserver models export` writes" in failed.stderr
