"""File names of a Vosk model, and recognition of its directory."""

from pathlib import Path

STATIC = "HCLG.fst"
HCL, LM = "HCLr.fst", "Gr.fst"
LAZY = (HCL, LM)
"""Names of a static graph, and of the halves of one that is composed while decoding."""

DISAMBIG, WORDS, FEATURES = "disambig_tid.int", "words.txt", "mfcc.conf"

LAZY_INSIDE = frozenset(f"{folder}{name}" for folder in ("", "graph/") for name in LAZY)
"""Paths inside a model at which the halves may be."""

GRAPH_SOURCES = (*LAZY, STATIC, DISAMBIG)
"""Files that a compiled graph is made from."""

RESCORING = ("rescore", "rnnlm")
"""Folders that only improve the result of the first pass."""


def graph_directory(model: Path) -> Path:
    """Return the directory of a model's graphs."""
    nested = model / "graph"
    return nested if nested.is_dir() else model


def composes_its_graph(model: Path) -> bool:
    """Return whether the model in this directory has the parts of a graph, which are composed while
    it decodes: then recognition can be restricted to phrases."""
    graph = graph_directory(model)
    return all((graph / name).is_file() for name in LAZY)


def layout_problem(directory: Path) -> str | None:
    """Return what a Vosk model in this directory lacks, in words, or None. Reads no file."""
    try:
        if not directory.is_dir():
            return "there is no such directory"
        nested = directory / "am" / "final.mdl"
        flat = directory / "final.mdl"  # the layout of the oldest models
        if not nested.is_file() and not flat.is_file():
            return "am/final.mdl is missing"
        graph = directory / "graph" if nested.is_file() else directory
        lazy = composes_its_graph(directory)
        if not lazy and not (graph / STATIC).is_file():
            return f"neither {STATIC} nor {HCL} with {LM} is there"
    except PermissionError as error:
        return f"{error.filename} cannot be read by this user"
    return None


def has_parts(directory: Path) -> bool:
    """Return whether the directory has an acoustic model or a graph of Kaldi."""
    names = ("am/final.mdl", "final.mdl", *GRAPH_SOURCES, *(f"graph/{n}" for n in GRAPH_SOURCES))
    return any((directory / name).is_file() for name in names)


def rescoring_folders(directory: Path) -> list[str]:
    """Return the folders for rescoring that the model has, by the same rule as Vosk."""
    carpa, network = directory / "rescore" / "G.carpa", directory / "rnnlm" / "final.raw"
    there = {"rescore": carpa.is_file(), "rnnlm": network.is_file()}
    return [name for name in RESCORING if there[name]]


def features_file(model: Path) -> str:
    """Return the name, inside a model, of the file that sets its features."""
    nested = f"conf/{FEATURES}"
    return nested if (model / nested).is_file() else FEATURES
