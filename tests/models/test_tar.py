"""Models in packed tar archives: installed, or refused where one is hostile or damaged."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

import models
from models.fetching import pull_file
from models.fetching.unpack import ArchiveLimits, top_directory, unpack

NAME = "sherpa-onnx-xx-2026-01-01"
PARTS = {
    "am/final.mdl": os.urandom(300_000),
    "graph/HCLG.fst": os.urandom(200_000),
    "conf/mfcc.conf": b"--use-energy=false\n",
}


def nothing(*_: object) -> None:
    pass


def member(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, **more: object
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for key, value in more.items():
        setattr(info, key, value)
    return info


def tarred(*entries: tuple[tarfile.TarInfo, bytes], layout: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=layout) as writer:
        for info, content in entries:
            info.size = info.size or len(content)
            writer.addfile(info, io.BytesIO(content) if content else None)
    return file.getvalue()


def model(layout: int = tarfile.PAX_FORMAT, name: str = NAME) -> bytes:
    entries = [(member(f"{name}/", tarfile.DIRTYPE), b"")]
    entries += [(member(f"{name}/{inside}"), content) for inside, content in PARTS.items()]
    return tarred(*entries, layout=layout)


def whole(home: Path, name: str = NAME) -> bool:
    return all((home / name / inside).read_bytes() == data for inside, data in PARTS.items())


def left(home: Path) -> list[str]:
    return sorted(str(file.relative_to(home)) for file in home.rglob("*") if file.is_file())


@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress, lzma.compress])
def test_a_model_in_a_packed_tar_archive_is_installed(
    tmp_path: Path, pack: Callable[[bytes], bytes], layout: int
) -> None:
    file, home = tmp_path / "model.tar", tmp_path / "models"
    file.write_bytes(pack(model(layout)))
    seen: list[tuple[int, int]] = []
    directory = pull_file(
        file, home, lambda phase, *counts: seen.append(counts) if phase == "unpack" else None
    )
    assert (directory, whole(home)) == (home / NAME, True)
    assert set(left(home)) == {f"{NAME}/{inside}" for inside in PARTS} | {".pins.json"}
    assert seen[-1] == (file.stat().st_size,) * 2
    assert (home / NAME / "am/final.mdl").stat().st_mode & 0o111 == 0


@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_of_any_length_a_model_has_are_read(tmp_path: Path, layout: int) -> None:
    long = "a" * 150 + "/" + "模型" * 30
    content = [(member(f"{NAME}/{long}"), b"x"), (member(f"{NAME}/b"), b"yz")]
    file = tmp_path / "long.tar.bz2"
    file.write_bytes(bz2.compress(tarred(*content, layout=layout)))
    (tmp_path / "out").mkdir()
    with file.open("rb") as opened:
        unpack(opened, tmp_path / "out", nothing)
    assert (tmp_path / "out" / long).read_bytes() == b"x"
    assert (tmp_path / "out" / "b").read_bytes() == b"yz"


def test_several_packed_streams_are_one_archive(tmp_path: Path) -> None:
    """`pbzip2` and `pixz` pack in pieces."""
    data = model()
    cut = len(data) // 3
    for pack in (bz2.compress, gzip.compress, lzma.compress):
        file, home = tmp_path / "model.tar", tmp_path / pack.__module__
        file.write_bytes(pack(data[:cut]) + pack(data[cut : 2 * cut]) + pack(data[2 * cut :]))
        pull_file(file, home, nothing)
        assert whole(home)


def test_attribute_files_of_macos_are_left_out(tmp_path: Path) -> None:
    entries = [(member(f"._{NAME}"), b"attributes"), (member("./", tarfile.DIRTYPE), b"")]
    for inside, content in PARTS.items():
        entries += [(member(f"{NAME}/{inside}"), content)]
        entries += [(member(f"{NAME}/{Path(inside).parent}/._{Path(inside).name}"), b"attributes")]
    file, home = tmp_path / "model.tar.gz", tmp_path / "models"
    file.write_bytes(gzip.compress(tarred(*entries)))
    pull_file(file, home, nothing)
    assert set(left(home)) == {f"{NAME}/{inside}" for inside in PARTS} | {".pins.json"}


def huge(kind: bytes, size: int) -> bytes:
    """Return a header of that type which claims so many bytes, or a gigabyte that does not
    follow."""
    return member("m/x", kind, size).tobuf(tarfile.GNU_FORMAT)


def checksummed(header: bytes) -> bytes:
    total = sum(header[:148]) + 8 * 32 + sum(header[156:512])
    return header[:148] + b"%06o\0 " % total + header[156:]


def pax(records: bytes, then: bytes = b"") -> bytes:
    header = member("m/x", tarfile.XHDTYPE, len(records)).tobuf(tarfile.USTAR_FORMAT)
    return header + records + bytes(-len(records) % 512) + then


SPARSE = pax(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n", tarred((member("m/a"), b"x")))
PLAIN = tarred((member("m/am/final.mdl"), b"x" * 5000), layout=tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it breaks off"),
        (model()[:100_000], "it breaks off"),
        (model()[:700], "it breaks off"),
        (tarred((member("m/../../evil"), b"x")), "lead out"),
        (tarred((member("/etc/evil"), b"x")), "lead out"),
        (tarred((member("m\\..\\evil"), b"x")), "lead out"),
        (tarred((member("C:/evil"), b"x")), "lead out"),
        (tarred((member(".ssh/authorized_keys"), b"x")), "hidden"),
        (tarred((member("m/am", tarfile.SYMTYPE, linkname="/etc"), b"")), "is a link"),
        (tarred((member("m/am", tarfile.LNKTYPE, linkname="m/b"), b"")), "is a link"),
        (tarred((member("m/am", tarfile.CHRTYPE), b"")), "a device"),
        (tarred((member("m/am", tarfile.BLKTYPE), b"")), "a device"),
        (tarred((member("m/am", tarfile.FIFOTYPE), b"")), "a device"),
        (tarred((member("m/a", tarfile.GNUTYPE_SPARSE), b"x" * 512)), "a device"),
        (SPARSE, "a sparse file"),
        (tarred((member("m/a"), b""), (member("n/b"), b"")), "2 things at its top"),
        (tarred(), "0 things at its top"),
        (tarred((member("final.mdl"), b"x")), "a file where"),
        (tarred((member("m/" + "d/" * 20 + "x"), b"")), "nested"),
        (tarred((member("m/" + "n" * 250), b"")), "nested or named"),
        (tarred((member("m/A"), b"1"), (member("m/a"), b"2")), "twice"),
        (tarred((member("m/a"), b"1"), (member("m/a/b"), b"2")), "a file and a directory"),
        (tarred((member("m/a/b"), b"1"), (member("m/a"), b"2")), "a file and a directory"),
        (tarred((member("m/bomb"), bytes(20_000_000))), "200 times its size"),
        (tarred(*((member(f"m/{n}"), b"") for n in range(5000))), "4097 entries"),
        (tarred(*((member(f"m/._{n}"), b"") for n in range(10_000))), "8192 entries"),
        (tarred((member("m/._a"), bytes(2_000_000))), "an attribute file of"),
        (huge(tarfile.XHDTYPE, 10**9) + bytes(10**6), "extended header of 1000000000 bytes"),
        (huge(tarfile.XGLTYPE, 10**9) + bytes(10**6), "extended header of 1000000000 bytes"),
        (huge(tarfile.GNUTYPE_LONGNAME, 10**9) + bytes(10**6), "extended header of"),
        (huge(tarfile.GNUTYPE_LONGLINK, 10**9) + bytes(10**6), "is a link or a device"),
        (huge(tarfile.REGTYPE, 10**12), "would unpack to 1000000000000 bytes"),
        (huge(tarfile.REGTYPE, 10**24), "would unpack to"),
        (huge(tarfile.DIRTYPE, 5), "a directory with 5 bytes"),
        (pax(b"30 size=99999999999999999999\n") + PLAIN, "extended header is not one"),
        (pax(b"21 size=999999999999\n") + PLAIN, "would unpack to 999999999999 bytes"),
        (pax(b"12 size=-1\n") + PLAIN, "extended header is not one"),
        (pax(b"11 size=-1\n") + PLAIN, "a number in an extended header"),
        (pax(b"99 path=m/a\n") + PLAIN, "extended header is not one"),
        (pax(b"xx path=m/a\n") + PLAIN, "a number in an extended header"),
        (pax(b"1 \n") + PLAIN, "extended header is not one"),
        (pax(b"15 path=../ev\n\n") + PLAIN, "lead out"),
        (pax(b"11 path=\xff\xfe\n") + PLAIN, "not UTF-8"),
        (pax(b"") * 9000 + PLAIN, "8192 entries"),
        (PLAIN[:124] + b"zzzzzzzzzzz\0" + PLAIN[136:], "checksum of a header"),
        (checksummed(PLAIN[:124] + b"zzzzzzzzzzz\0" + PLAIN[136:]), "a number in a header"),
        (b"PK\x03\x04" + bytes(508), "checksum of a header"),
        (PLAIN + bytes(3_000_000), "continues after its end"),
        (tarred((member("m/README"), b"no model")), "holds no model"),
    ],
)
def test_a_malicious_or_damaged_archive_leaves_nothing_behind(
    tmp_path: Path, data: bytes, says: str
) -> None:
    file, home = tmp_path / "archive.tar.bz2", tmp_path / "models"
    file.write_bytes(bz2.compress(data))
    tracemalloc.start()
    try:
        with pytest.raises(models.ModelError, match=says):
            pull_file(file, home, nothing)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert not home.exists() or left(home) == []
    assert {path.name for path in tmp_path.iterdir()} <= {"archive.tar.bz2", "models"}


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress, lzma.compress])
def test_damaged_compression_is_said(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    file, home = tmp_path / "archive.tar", tmp_path / "models"
    packed = pack(model())
    middle = len(packed) // 2
    for damaged in (packed[:middle], packed[:middle] + bytes(1000) + packed[middle + 1000 :]):
        file.write_bytes(damaged)
        with pytest.raises(models.ModelError, match=r"archive\.tar is not unpacked: it") as caught:
            pull_file(file, home, nothing)
        assert caught.value.code == "bad_archive"
        assert left(home) == []


def test_a_million_empty_entries_are_refused_early(tmp_path: Path) -> None:
    file = tmp_path / "archive.tar.gz"
    headers = b"".join(member(f"m/{n}").tobuf(tarfile.USTAR_FORMAT) for n in range(5000))
    with gzip.open(file, "wb", 1) as writer:
        for _ in range(200):
            writer.write(headers)
    home = tmp_path / "models"
    with pytest.raises(models.ModelError, match="4097 entries, 4096 are the most"):
        pull_file(file, home, nothing)
    assert left(home) == []


def test_xz_that_needs_much_memory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "archive.tar.xz"
    # Only the header says how large the dictionary is.
    packer = lzma.LZMACompressor(filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}])
    small = packer.compress(model()) + packer.flush()
    wide = _header_of_xz(512 << 20)
    file.write_bytes(wide + small[len(wide) :])
    with pytest.raises(models.ModelError, match="Memory usage limit"):
        pull_file(file, tmp_path / "models", nothing)


def _header_of_xz(dict_size: int) -> bytes:
    """Stream and block header (The .xz File Format, 2.1.1 and 3.1) with that dictionary."""
    flags = b"\0\x04"
    stream = b"\xfd7zXZ\0" + flags + zlib.crc32(flags).to_bytes(4, "little")
    bits = 2 * (dict_size.bit_length() - 13)  # 2 ** (bits / 2 + 12)
    block = bytes([2, 0, 0x21, 1, bits, 0, 0, 0])
    return stream + block + zlib.crc32(block).to_bytes(4, "little")


def test_an_archive_may_not_unpack_to_more_than_its_bound(tmp_path: Path) -> None:
    file, out = tmp_path / "a.tar.bz2", tmp_path / "out"
    file.write_bytes(bz2.compress(model()))
    out.mkdir()
    with file.open("rb") as opened:
        with pytest.raises(models.ModelError, match="would unpack to 500000 bytes"):
            unpack(opened, out, nothing, ArchiveLimits(unpacked=400_000))
        assert top_directory(opened) == NAME


def test_a_full_disk_is_said_before_a_file_is_written(small_disk: Path, tmp_path: Path) -> None:
    file = tmp_path / "big.tar.bz2"
    big = (member(f"{NAME}/more"), os.urandom(1_500_000))
    file.write_bytes(bz2.compress(tarred(big)))
    with pytest.raises(models.ModelError, match=r"bytes unpacked, \d+ are free"):
        pull_file(file, small_disk, nothing)
    assert left(small_disk) == []
