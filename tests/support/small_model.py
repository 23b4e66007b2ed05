"""A model whose graph composes in seconds: the embedded model's parts, and a language model of a
few hundred words.

The graph files are written byte by byte (OpenFst 1.7.9: `fst.cc`, `symbol-table.cc`,
`vector-fst.h`).
"""

import functools
import math
import struct
from pathlib import Path

import models
from models.vosk.graph_file import read_graph_header
from models.vosk.prepared import PreparedModel, compiled_graph

FST_MAGIC, SYMBOLS_MAGIC = 2125659606, 2125658996
HAS_ISYMBOLS, HAS_OSYMBOLS = 1, 2

SMALL_WORDS = """
어제 친구 와 함께 시장 에 가서 사과 배 를 값이 지난달 보다 많이 올랐 더라고요 오늘 은 날씨 가 맑고
바람이 조금 내일 오후 에는 비 올 수 우산 을 다음 개수 이적 하세요 있어 고 과 다 찍히 석사 베르
보이드 오고 미곡 사유 역에서 있습 니다 있을 의혹이 법에 들 이 그 저 것 하다 있다 없다 되다 나 우리
"""
"""Words of the bundled clips, as the embedded model recognises them, and a few more."""


def make_small_model(
    embedded: Path,
    directory: Path,
    words: list[str],
    *,
    skew: float = 1,
    table_of_all: bool = False,
) -> Path:
    """Links to the embedded model, with a unigram model of `words` in place of its Gr.fst.

    `skew` makes some words likelier than others, for a model that recognises other words.
    `table_of_all`: list the words of the embedded model that it cannot recognise, too, for a model
    of which the size counts.
    """
    for source in embedded.rglob("*"):
        if source.is_file() and source.name != "Gr.fst":
            target = directory / source.relative_to(embedded)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    labels = read_symbols(embedded / "graph" / "Gr.fst")
    known = sorted({labels[word] for word in words if word in labels})
    assert len(known) > 20
    table = {word: label for word, label in labels.items() if table_of_all or _is_mark(word)}
    table |= {word: labels[word] for word in words if word in labels}
    (directory / "graph" / "Gr.fst").write_bytes(_unigram(known, table, skew))
    return directory


def _is_mark(symbol: str) -> bool:
    """Return whether a symbol is a mark, not a word: an engine looks for it, or it is the last of
    all. The words that a small model cannot recognise are left out of its table: half a million
    take longer to load than all the rest."""
    return symbol[0] in "<!#" or symbol == "[unk]"


def make_static_model(
    small: models.ModelLocation, prepared_small: PreparedModel, directory: Path, *, aligned: bool
) -> models.ModelLocation:
    """Return the small model in the form of the publisher's big ones: with its graph composed
    already."""
    for source in small.directory.rglob("*"):
        if source.is_file() and source.name not in ("HCLr.fst", "Gr.fst", "disambig_tid.int"):
            target = directory / source.relative_to(small.directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source.resolve())
    data = compiled_graph(prepared_small.directory).read_bytes()
    if not aligned:
        header = read_graph_header(compiled_graph(prepared_small.directory))
        assert header is not None
        states_at, arcs_bytes = -(-header.header_bytes // 16) * 16, header.arcs * 16
        fixed = struct.pack("<ii", 2, 0)  # an older version of the file, and no flags
        head = data[: header.header_bytes]
        at = header.header_bytes - struct.calcsize("<iiQqqq")
        data = (
            head[:at]
            + fixed
            + head[at + 8 :]
            + data[states_at : states_at + header.states * 20]
            + data[len(data) - arcs_bytes :]
        )
    (directory / "graph" / "HCLG.fst").write_bytes(data)
    words = prepared_small.directory / "graph" / "words.txt"
    (directory / "graph" / "words.txt").symlink_to(words)
    return models.ModelLocation("static", directory, "ko")


@functools.cache
def read_symbols(file: Path) -> dict[str, int]:
    """Return the output symbols inside a graph file: word to label."""
    data = file.read_bytes()
    at = 4
    for _ in range(2):  # the graph's type and its arcs' type
        (length,) = struct.unpack_from("<i", data, at)
        at += 4 + length
    _, flags, *_ = struct.unpack_from("<iiQqqq", data, at)
    at += struct.calcsize("<iiQqqq")
    if flags & HAS_ISYMBOLS:
        _, at = _symbols(data, at)
    assert flags & HAS_OSYMBOLS
    return _symbols(data, at)[0]


def _symbols(data: bytes, at: int) -> tuple[dict[str, int], int]:
    magic, length = struct.unpack_from("<ii", data, at)
    assert magic == SYMBOLS_MAGIC
    at += 8 + length
    _, size = struct.unpack_from("<qq", data, at)
    at += 16
    labels = {}
    for _ in range(size):
        (length,) = struct.unpack_from("<i", data, at)
        word = data[at + 4 : at + 4 + length].decode()
        (labels[word],) = struct.unpack_from("<q", data, at + 4 + length)
        at += 12 + length
    return labels, at


def _string(text: bytes) -> bytes:
    return struct.pack("<i", len(text)) + text


def _unigram(labels: list[int], symbols: dict[str, int], skew: float) -> bytes:
    """Return an acceptor of one final state, with a loop for each word."""
    header = struct.pack("<i", FST_MAGIC) + _string(b"vector") + _string(b"standard")
    header += struct.pack("<iiQqqq", 2, HAS_OSYMBOLS, 3, 0, 1, len(labels))
    table = [struct.pack("<i", SYMBOLS_MAGIC) + _string(b"words")]
    table.append(struct.pack("<qq", max(symbols.values()) + 1, len(symbols)))
    for word, label in sorted(symbols.items(), key=lambda item: item[1]):
        table.append(_string(word.encode()) + struct.pack("<q", label))
    state = struct.pack("<fq", 1.0, len(labels))
    cost = math.log(len(labels))
    for number, label in enumerate(labels):
        # No two words alike: between equals the order of states would decide.
        weight = cost * (1 + (skew - 1) * (number % 2)) + label * 0.618 % 1
        state += struct.pack("<iifi", label, label, weight, 0)
    return header + b"".join(table) + state


def add_rescoring(directory: Path, *, states: int, arcs_each: int, lm_ints: int) -> None:
    """Add a `rescore/` to the model in `directory`: a language model to subtract (`G.fst`), and one
    to add (`G.carpa`) that gives all words the same probability (Kaldi: `const-arpa-lm.cc`)."""
    labels = read_symbols(directory / "graph" / "Gr.fst")
    highest = max(labels.values())
    rescore = directory / "rescore"
    rescore.mkdir()
    (rescore / "G.fst").write_bytes(_acceptor(states, arcs_each, highest))
    (rescore / "G.carpa").write_bytes(_const_arpa(labels, highest + 1, lm_ints))


def _acceptor(states: int, arcs_each: int, highest: int) -> bytes:
    """Return an acceptor whose first state takes every word; the others are there for its size
    only."""
    header = struct.pack("<i", FST_MAGIC) + _string(b"vector") + _string(b"standard")
    arcs = highest + (states - 1) * arcs_each
    header += struct.pack("<iiQqqq", 2, 0, 3, 0, states, arcs)
    body = [struct.pack("<fq", 1.0, highest)]
    body += [struct.pack("<iifi", label, label, 5.0, 0) for label in range(1, highest + 1)]
    other = struct.pack("<fq", 1.0, arcs_each)
    other += b"".join(struct.pack("<iifi", 1 + n, 1 + n, 1.0, 0) for n in range(arcs_each))
    return header + b"".join(body) + other * (states - 1)


def _const_arpa(labels: dict[str, int], words: int, ints: int) -> bytes:
    """Return a unigram of every word (its log probability, its back-off, no children), and space to
    which nothing points."""
    state = struct.pack("<ffi", -5.0, 0.0, 0)
    count = max(ints, 3 * words)

    def token(name: str) -> bytes:
        return f"<{name}> ".encode()

    def integer(value: int, size: int) -> bytes:
        return bytes([size]) + value.to_bytes(size, "little", signed=True)

    unknown = labels.get("[unk]", labels.get("<unk>", 1))
    info = [integer(v, 4) for v in (labels.get("<s>", 1), labels.get("</s>", 2), unknown, 1)]
    states = state * words + bytes(4 * (count - 3 * words))
    unigrams = struct.pack(f"<{words}q", *(1 + 3 * word for word in range(words)))
    return b"".join(
        [
            b"\0B",
            token("ConstArpaLm") + token("LmInfo") + b"".join(info) + token("/LmInfo"),
            token("LmStates") + integer(count, 8) + states + token("/LmStates"),
            token("LmUnigram") + integer(words, 4) + unigrams + token("/LmUnigram"),
            token("LmOverflow") + integer(0, 4) + token("/LmOverflow") + token("/ConstArpaLm"),
        ]
    )
