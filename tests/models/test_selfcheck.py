"""A prepared model is accepted if it is right, whatever its language, and refused if it is not."""

import random
import shutil
import struct
from pathlib import Path

import pytest

import models
from models.clips import own_clips
from models.vosk.graph_file import ARC_BYTES, STATE_BYTES, GraphHeader, read_graph_header
from models.vosk.prepared import PreparedModel, compiled_graph
from models.vosk.prepared.compiler import GRAPH_COMPILER
from models.vosk.prepared.make import must_be_the_same_graph
from models.vosk.prepared.selfcheck import TIES, must_answer_alike, text_difference, word_errors
from models.vosk.prepared.structure import structure_problem, transition_ids


@pytest.mark.timeout(300)
@pytest.mark.parametrize("language", ["ko", "en", "zh", "ru"])
def test_a_right_one_is_accepted_under_every_language(
    embedded: models.ModelLocation, prepared_embedded: PreparedModel, language: str
) -> None:
    must_answer_alike(embedded.directory, language, prepared_embedded.made)


@pytest.mark.timeout(300)
def test_a_right_graph_is_accepted(
    embedded: models.ModelLocation, prepared_embedded: PreparedModel, cache: Path
) -> None:
    must_be_the_same_graph(GRAPH_COMPILER.build(cache), embedded, prepared_embedded.directory)


def test_no_other_language_has_clips() -> None:
    tags = {entry.language for entry in models.catalog()} | {"und"}
    others = {tag for tag in tags if tag.partition("-")[0] not in ("ko", "en", "zh")}
    assert len(others) > 15
    assert not any(own_clips(tag) for tag in others)


# --- what is wrong --------------------------------------------------------------------------------


class Harm:
    """Damages one place of a graph file, by chance."""

    def __init__(self, data: bytes, header: GraphHeader, chance: random.Random) -> None:
        self.data, self.header, self.chance = bytearray(data), header, chance

    def _arc(self) -> int:
        return self.header.arcs_at + ARC_BYTES * self.chance.randrange(self.header.arcs)

    def _state(self) -> int:
        return self.header.states_at + STATE_BYTES * self.chance.randrange(self.header.states)

    def _put(self, at: int, layout: str, value: float) -> None:
        before = bytes(self.data[at : at + 4])
        struct.pack_into(layout, self.data, at, value)
        if self.data[at : at + 4] == before:
            struct.pack_into("<I", self.data, at, struct.unpack("<I", before)[0] ^ 1)

    def next_state(self) -> None:
        self._put(self._arc() + 12, "<i", self.chance.randrange(self.header.states))

    def next_state_outside(self) -> None:
        self._put(self._arc() + 12, "<i", self.chance.choice((-1, 0x7FFFFF00, self.header.states)))

    def sound(self) -> None:
        self._put(self._arc(), "<i", self.chance.randrange(12_000))

    def sound_outside(self) -> None:
        self._put(self._arc(), "<i", self.chance.choice((-1, 0x7FFFFF00, 1 << 20)))

    def word(self) -> None:
        self._put(self._arc() + 4, "<i", self.chance.randrange(50_000))

    def weight(self) -> None:
        self._put(self._arc() + 8, "<f", self.chance.uniform(-20, 20))

    def weight_no_number(self) -> None:
        value = self.chance.choice((float("nan"), float("inf"), -float("inf")))
        self._put(self._arc() + 8, "<f", value)

    def final_weight(self) -> None:
        self._put(self._state(), "<f", self.chance.uniform(-20, 20))

    def arcs_of_a_state(self) -> None:
        self._put(self._state() + self.chance.choice((4, 8)), "<I", self.chance.randrange(1 << 31))

    def epsilons_of_a_state(self) -> None:
        at = self._state() + self.chance.choice((12, 16))
        self._put(at, "<I", self.chance.randrange(1 << 31))

    def start(self) -> None:
        at = self.header.header_bytes - 24
        struct.pack_into("<q", self.data, at, 1 + self.chance.randrange(self.header.states - 1))

    def shorter(self) -> None:
        del self.data[self.chance.randrange(len(self.data)) :]

    def longer(self) -> None:
        self.data += bytes(self.chance.randrange(1, 64))


HARMS = [name for name in vars(Harm) if not name.startswith("_")]


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory, prepared_small: PreparedModel) -> Path:
    directory = tmp_path_factory.mktemp("harmed") / "small"
    shutil.copytree(prepared_small.directory, directory, symlinks=True)
    return directory


@pytest.mark.timeout(300)
@pytest.mark.parametrize("group", range(10))
def test_a_hundred_of_a_hundred_damaged_graphs_are_refused(
    harmed: Path,
    small: models.ModelLocation,
    prepared_small: PreparedModel,
    cache: Path,
    group: int,
) -> None:
    program = GRAPH_COMPILER.build(cache)
    data = compiled_graph(prepared_small.directory).read_bytes()
    header = read_graph_header(compiled_graph(prepared_small.directory))
    assert header is not None
    graph = harmed / "graph" / "HCLG.fst"
    for number in range(10 * group, 10 * group + 10):
        harm = Harm(data, header, random.Random(number))
        name = HARMS[number % len(HARMS)]
        getattr(harm, name)()
        graph.write_bytes(harm.data)
        with pytest.raises(models.ModelError) as caught:
            must_be_the_same_graph(program, small, harmed)
        assert caught.value.code == "answers_differ", (number, name)


@pytest.mark.parametrize(
    "name",
    ["next_state_outside", "sound_outside", "weight_no_number", "arcs_of_a_state", "shorter"],
)
def test_what_an_engine_cannot_walk_is_seen_without_a_compiler(
    harmed: Path, small: models.ModelLocation, prepared_small: PreparedModel, name: str
) -> None:
    data = compiled_graph(prepared_small.directory).read_bytes()
    header = read_graph_header(compiled_graph(prepared_small.directory))
    assert header is not None
    graph, words = harmed / "graph" / "HCLG.fst", harmed / "graph" / "words.txt"
    for seed in range(10):
        harm = Harm(data, header, random.Random(seed))
        getattr(harm, name)()
        graph.write_bytes(harm.data)
        assert structure_problem(graph, small.directory, words) is not None, seed
    graph.write_bytes(data)
    assert structure_problem(graph, small.directory, words) is None


def test_the_sounds_of_an_acoustic_model_are_counted(embedded: models.ModelLocation) -> None:
    sounds = transition_ids(embedded.directory)
    assert sounds is not None
    disambiguation = (embedded.directory / "graph" / "disambig_tid.int").read_text().split()
    assert sounds == min(map(int, disambiguation)) - 1


# --- texts ----------------------------------------------------------------------------------------


def test_ties_are_forgiven_and_no_more() -> None:
    said = ["one two three four five six seven eight nine ten"] * 5
    ours = [text.replace("three", "tree") for text in said]
    assert text_difference(said, said) is None
    assert text_difference(said, ours) is None  # 5 of 50
    assert TIES == 0.1
    worse = [text.replace("four", "for") for text in ours]
    assert "10 of 50 words differ" in (text_difference(said, worse) or "")
    assert "became an empty text" in (text_difference(["one"], [""]) or "")
    assert text_difference([""], ["one"]) is None
    assert word_errors(["a", "b", "c", "d"], ["a", "c", "d", "e"]) == 2
