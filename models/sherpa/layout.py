"""Recognition of a directory that sherpa-onnx can load, by file names and ONNX metadata.

`models.sherpa.kinds` lists the kinds of models and the files of each. Several variants of a model
may lie in one directory: 8-bit weights are preferred, except for the decoder of a transducer, which
is small.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from models.sherpa.files import INT8, best, is_network, names_in, natural, role_of, variant
from models.sherpa.kinds import KINDS, Kind, kind_of_pair, kind_of_single, kind_of_transducer
from models.sherpa.metadata import NotOnnx, read_metadata
from models.sherpa.punctuation_layout import punctuation_kind
from models.sherpa.refusals import (
    RELEASES,
    NotRecognised,
    funasr_export,
    punctuation_instead,
    unknown_type,
    why_no_network,
)

_TOKENS_BYTES_MOST = 8_000_000
_CODE = re.compile("[a-z]{2,3}")
_LANGUAGES_MOST = 200
_STATELESS = frozenset(("vocab_size", "context_size"))
_SENTENCE_ENDS = frozenset((".", "?", "。", "？"))


@dataclass(frozen=True, slots=True)
class Layout:
    """Directory with a model, recognised."""

    kind: Kind
    files: Mapping[str, Path]
    """Arguments of `kind.factory` that are files, or directories with a tokenizer."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Metadata of the first network."""
    arguments: Mapping[str, str | int] = field(default_factory=dict)
    """Arguments of `kind.factory` that follow from the files but are not files."""
    languages: tuple[str, ...] = ()
    """BCP 47 tags that a request may choose from; empty: the model has no such choice."""
    detects_language: bool = False
    written: bool = False
    """True if its texts have case and punctuation."""
    clips: tuple[Path, ...] = ()
    """Recordings that came with the model (`test_wavs/`)."""

    @property
    def streaming(self) -> bool:
        """True if it decodes as audio comes."""
        return self.kind.streaming

    @property
    def sample_rate(self) -> int:
        """Samples per second that it takes."""
        return self.kind.sample_rate

    @property
    def longest_s(self) -> float | None:
        """Seconds of audio that it decodes at once; None: any length."""
        return None if self.kind.streaming else self.kind.longest_s

    @property
    def networks(self) -> tuple[Path, ...]:
        """Networks that are loaded."""
        return tuple(self.files[name] for name in self.kind.arguments)

    def with_networks_in(self, prepared: Path, original: Path) -> "Layout":
        """Return the layout of the model in the directory `original` with the networks of a
        prepared one in their place; tokens and everything else stay the original's."""
        moved = {
            name: made
            for name in self.kind.arguments
            if (made := prepared / self.files[name].relative_to(original)).is_file()
        }
        return replace(self, files={**self.files, **moved})

    @property
    def quantised(self) -> bool:
        """True if its largest network has 8-bit weights, by its name."""
        largest = max(self.networks, key=lambda file: file.stat().st_size)
        return variant(largest.name) == INT8


def recognise(directory: Path) -> Layout:
    """Recognise a model by file names, metadata and tokens.

    Raises `NotRecognised`, and `OSError` for a directory that is not readable.
    """
    if not directory.is_dir():
        raise NotRecognised("there is no such directory")
    for home, words in ((directory, directory), *_vosk_homes(directory)):
        names = names_in(home)
        if any(is_network(name) for name in names):
            return _Recognition(home, words, names).layout(directory)
    raise NotRecognised(why_no_network(directory))


def has_networks(directory: Path) -> bool:
    """Return whether the directory has networks in a format of ONNX Runtime."""
    homes = (directory, *(home for home, _ in _vosk_homes(directory)))
    return any(is_network(name) for home in homes for name in names_in(home))


def _vosk_homes(directory: Path) -> Iterable[tuple[Path, Path]]:
    """Yield the directories with the networks, and with the tokens, of models for Vosk 0.52 and
    later."""
    return ((directory / name, directory / "lang") for name in ("am-onnx", "am"))


class _Recognition:
    """Looks for a model among the files of one directory."""

    def __init__(self, home: Path, words: Path, names: list[str]) -> None:
        """Group the files of the directory `home`. `words`: the directory of the tokens."""
        self._home, self._words, self._names = home, words, names
        self._groups: dict[str, dict[str, list[str]]] = {}
        for name in names:
            if is_network(name) and (home / name).is_file():
                role, rest = role_of(name)
                if role:
                    self._groups.setdefault(rest, {}).setdefault(role, []).append(name)

    def layout(self, directory: Path) -> Layout:
        """Recognise the model in `directory`. Raises `NotRecognised`."""
        try:
            return self._layout(directory)
        except NotRecognised:
            if "am.mvn" in self._names:
                raise funasr_export() from None
            raise

    def _layout(self, directory: Path) -> Layout:
        for needed, make in self._families():
            if (group := self._group(needed)) is not None:
                return make(directory, group)
        raise NotRecognised(self._incomplete())

    def _families(self) -> tuple[tuple[tuple[str, ...], "_Maker"], ...]:
        def named(kind: str, **roles: str) -> "_Maker":
            return lambda directory, group: self._named(directory, KINDS[kind], group, roles)

        return (
            (("preprocessor", "encoder", "uncached_decoder", "cached_decoder"), named("moonshine")),
            (("conv_frontend", "encoder", "decoder"), named("qwen3_asr")),
            (("encoder_adaptor", "llm", "embedding"), named("funasr_nano")),
            (("encoder", "decoder", "joiner"), self._transducer),
            (("encoder", "decoder"), self._pair),
            (
                ("encoder_model", "decoder_model_merged"),
                named("moonshine_v2", encoder="encoder_model", decoder="decoder_model_merged"),
            ),
            (("model",), self._single),
        )

    def _group(self, needed: tuple[str, ...]) -> dict[str, list[str]] | None:
        """Return the files of one model that has all of these parts, or None. Of several models the
        streaming ones are preferred (`chunk`), then the one whose name comes last."""
        complete = [
            rest for rest, roles in self._groups.items() if all(role in roles for role in needed)
        ]
        if not complete:
            # Parts that are named differently, if there is only one of each.
            merged: dict[str, list[str]] = {}
            for roles in self._groups.values():
                for role, files in roles.items():
                    merged.setdefault(role, []).extend(files)
            alone = all(
                len({role_of(name)[1] for name in merged.get(role, ())}) == 1 for role in needed
            )
            return merged if alone else None
        return self._groups[max(complete, key=lambda rest: ("chunk" in rest, natural(rest)))]

    def _best(self, names: list[str], *, plain: bool = False) -> Path:
        return self._home / best(names, plain=plain)

    def _transducer(self, directory: Path, group: dict[str, list[str]]) -> Layout:
        files = {role: self._best(group[role]) for role in ("encoder", "joiner")}
        metadata = self._metadata(files["encoder"])
        kind = kind_of_transducer(metadata)
        decoder = self._best(group["decoder"], plain=True)
        if (
            kind is None
            and "model_type" not in metadata
            and set(self._metadata(decoder)) >= _STATELESS
        ):
            # the oldest exports: the library reads only the decoder's metadata
            kind = KINDS["transducer"]
        if kind is None:
            raise unknown_type(files["encoder"], metadata)
        nemo = kind.name.startswith("nemo")
        files["decoder"] = self._best(group["decoder"]) if nemo else decoder
        model_type = metadata.get("model_type", "") if kind.streaming else kind.name
        files["tokens"] = self._tokens(files["encoder"])
        return self._made(directory, kind, files, metadata, model_type=model_type)

    def _pair(self, directory: Path, group: dict[str, list[str]]) -> Layout:
        files = {role: self._best(group[role]) for role in ("encoder", "decoder")}
        metadata = self._metadata(files["encoder"])
        kind = kind_of_pair(metadata)
        if kind is None:
            if kind_of_transducer(metadata) is not None:
                raise NotRecognised(
                    f"{files['encoder'].name} belongs to a transducer, and joiner.onnx is missing"
                )
            raise unknown_type(files["encoder"], metadata)
        files["tokens"] = self._tokens(files["encoder"])
        return self._made(directory, kind, files, metadata)

    def _single(self, directory: Path, group: dict[str, list[str]]) -> Layout:
        file = self._best(group["model"])
        metadata = self._metadata(file)
        kind = kind_of_single(metadata)
        if kind is None and punctuation_kind(metadata) is not None:
            raise punctuation_instead(file)
        if kind is None:
            raise unknown_type(file, metadata)
        files = {kind.arguments[0]: file, "tokens": self._tokens(file)}
        arguments: dict[str, str | int] = {}
        if kind.name == "online_wenet_ctc":
            for argument, key in (("chunk_size", "chunk_size"), ("num_left_chunks", "left_chunks")):
                if re.fullmatch(r"[1-9]\d{0,2}", metadata.get(key, "")):
                    arguments[argument] = int(metadata[key])
        return self._made(directory, kind, files, metadata, **arguments)

    def _named(
        self, directory: Path, kind: Kind, group: dict[str, list[str]], roles: Mapping[str, str]
    ) -> Layout:
        """Return the layout of a kind that is known by file names."""
        files = {name: self._best(group[roles.get(name, name)]) for name in kind.arguments}
        first = files[kind.arguments[0]]
        metadata = {} if first.suffix == ".ort" else self._metadata(first)
        if kind.name in ("qwen3_asr", "funasr_nano"):
            files["tokenizer"] = self._tokenizer(kind)
        else:
            files["tokens"] = self._tokens(files["encoder"])
        return self._made(directory, kind, files, metadata)

    def _made(
        self,
        directory: Path,
        kind: Kind,
        files: Mapping[str, Path],
        metadata: Mapping[str, str],
        **arguments: str | int,
    ) -> Layout:
        for name in kind.arguments:
            self._check(files[name])
        languages, detects = kind.languages, kind.detects_language
        if kind.name == "whisper" and metadata.get("is_multilingual") == "1":
            codes = metadata.get("all_language_codes", "").split(",")
            known = dict.fromkeys(filter(_CODE.fullmatch, codes))
            languages, detects = tuple(islice(known, _LANGUAGES_MOST)), True
        if kind.name == "sense_voice" and "Nano" in metadata.get("comment", ""):
            languages, detects = (), False
        written = kind.written
        if written is None:
            written = _has_sentence_ends(files["tokens"])
        test_wavs = directory / "test_wavs"
        clips = (test_wavs / name for name in names_in(test_wavs) if name.endswith(".wav"))
        return Layout(
            kind,
            files,
            metadata,
            arguments,
            languages,
            detects,
            written,
            tuple(clip for clip in clips if clip.is_file()),
        )

    def _check(self, file: Path) -> None:
        if file.suffix == ".ort":
            with file.open("rb") as reader:
                if reader.read(8)[4:] != b"ORTM":
                    raise NotRecognised(f"{file.name} is not a model of ONNX Runtime")
        else:
            self._metadata(file)

    def _metadata(self, file: Path) -> dict[str, str]:
        try:
            return read_metadata(file)
        except NotOnnx as error:
            raise NotRecognised(f"{file.name}: {error}") from None

    def _tokens(self, network: Path) -> Path:
        """Return the tokens that belong to a network: with its prefix (`base-tokens.txt`), or
        plain."""
        there = [
            name
            for name in names_in(self._words)
            if name.endswith("tokens.txt") and (self._words / name).is_file()
        ]
        prefix = next((part for part in ("encoder", "model") if part in network.name), "")
        wanted = (network.name.split(prefix)[0] + "tokens.txt" if prefix else "", "tokens.txt")
        for name in wanted:
            if name in there:
                return self._words / name
        if len(there) == 1:
            return self._words / there[0]
        where = "tokens.txt" if self._words == self._home else f"{self._words.name}/tokens.txt"
        more = ""
        if "tokens.json" in self._names or "vocab.json" in self._names:
            more = "; its tokens are in a file of another form"
        raise NotRecognised(
            f"{network.name} is there, and {where} is missing{more}; releases for sherpa-onnx "
            f"have both: {RELEASES}"
        )

    def _tokenizer(self, kind: Kind) -> Path:
        needed = ["vocab.json", "merges.txt"]
        needed.append("tokenizer.json" if kind.name == "funasr_nano" else "tokenizer_config.json")
        for home in (self._home, *(self._home / name for name in self._names)):
            if home.is_dir() and all((home / name).is_file() for name in needed):
                return home
        raise NotRecognised(f"there is no directory with {', '.join(needed)}: the tokenizer")

    def _incomplete(self) -> str:
        roles = {role: files[0] for group in self._groups.values() for role, files in group.items()}
        for needed, _ in self._families():
            missing = [role for role in needed if role not in roles]
            if len(missing) == 1 < len(needed):
                there = " and ".join(roles[role] for role in needed if role in roles)
                return f"there is {there}, but no {missing[0]}.onnx"
        there = ", ".join(sorted(roles.values())[:4]) or "no network for speech recognition"
        return (
            f"its files ({there}) are not those of one model; supported are models as sherpa-onnx "
            f"releases them: {RELEASES}"
        )


_Maker = Callable[[Path, dict[str, list[str]]], Layout]


def _has_sentence_ends(tokens: Path) -> bool:
    with tokens.open("rb") as reader:
        text = reader.read(_TOKENS_BYTES_MOST).decode("utf-8", "replace")
    return any(line.rpartition(" ")[0].strip("▁ ") in _SENTENCE_ENDS for line in text.splitlines())
