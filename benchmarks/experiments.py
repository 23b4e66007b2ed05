"""What else might pay for a prepared model: allocators, huge pages, the order of states.

    python benchmarks/experiments.py [--rounds N] [--count N] [--audio DIR]

Needs root for the file system of huge pages, and g++ with libfst-dev to reorder the graph.
"""

import argparse
import contextlib
import ctypes
import mmap
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bare import GRAPH_VARIABLE, Bare
from tables import spread, table

import models
from models.vosk.prepared import find_prepared
from modelserver.settings import Settings
from supervisor.processes.environment import GLIBC_HUGE_PAGES, JEMALLOC_CONF, JEMALLOC_HUGE_PAGES

MB = 1e6
HUGE_JEMALLOC = {"MALLOC_CONF": JEMALLOC_CONF + JEMALLOC_HUGE_PAGES}


def drop(file: Path) -> None:
    """Out of the file cache."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident(file: Path) -> list[int]:
    """The numbers of the file's pages that are in the file cache (mincore(2))."""
    size = file.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), size) as mapped:
        vector = (ctypes.c_ubyte * pages)()
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), vector) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
        return [number for number, flags in enumerate(vector) if flags & 1]


@contextlib.contextmanager
def huge_pages(graph: Path) -> Iterator[Path]:
    """The graph in memory of huge pages: no file cache that the kernel could take back."""
    with tempfile.TemporaryDirectory() as directory:
        mount = ["mount", "-t", "tmpfs", "-o", "huge=always,size=2g", "tmpfs", directory]
        subprocess.run(mount, check=True)
        try:
            yield Path(shutil.copy(graph, directory))
        finally:
            subprocess.run(["umount", "-l", directory], check=True)


def compare(
    variants: dict[str, tuple[str, dict[str, str]]], rounds: int, common: tuple[str, int]
) -> list[list[str]]:
    """Each variant as two processes, in turn with the others; ratios over the first."""
    bares = {
        name: Bare("prepared", 2, *common, allocator, **variables)
        for name, (allocator, variables) in variants.items()
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in bares}
    for number in range(rounds + 1):
        for name, bare in bares.items():
            run = bare.run()
            if number > 0:
                runs[name].append(run)
    for bare in bares.values():
        bare.close()
    base = next(iter(runs.values()))
    return [
        [
            name,
            spread([run["audio_s"] / run["wall_s"] for run in each], ".1f"),
            spread([b["wall_s"] / run["wall_s"] for b, run in zip(base, each, strict=True)]),
            f"{sum(each[-1]['anonymous']) / MB:.0f}",
        ]
        for name, each in runs.items()
    ]


def touched(graph: Path, common: tuple[str, int]) -> tuple[list[int], float]:
    """The pages that the set touches from a cold start, and the real-time factor meanwhile."""
    drop(graph)
    bare = Bare("prepared", 1, *common, "auto", **{GRAPH_VARIABLE: str(graph)})
    run = bare.run()
    bare.close()
    return resident(graph), run["wall_s"] / run["audio_s"]


def orders(graph: Path, directory: Path, common: tuple[str, int]) -> dict[str, Path]:
    """The graph with its states in other orders."""
    program = directory / "reorder-graph"
    source = Path(__file__).parent / "reorder_graph.cc"
    subprocess.run(["g++", "-O2", "-std=c++17", "-o", program, source, "-lfst", "-ldl"], check=True)
    pages, _ = touched(graph, common)
    (directory / "pages").write_text("\n".join(map(str, pages)))
    made = {}
    for name, extra in (("dfs", []), ("hot", [directory / "pages"])):
        made[name] = directory / f"{name}.fst"
        subprocess.run([program, name, graph, made[name], *extra], check=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=40, help="utterances")
    parser.add_argument("--audio", default="", help="directory of 16 kHz mono WAV files")
    arguments = parser.parse_args()
    common = (arguments.audio, arguments.count)
    settings = Settings()
    location = models.find_model("auto", settings.models_dir)
    prepared = find_prepared(location, settings.prepared_dir).prepared
    assert prepared is not None, "prepare the model first: modelserver models prepare"
    graph = prepared.graph

    head = ["variant", "audio s per s, 2 processes", "over the first", "anonymous MB of 3"]
    allocators: dict[str, tuple[str, dict[str, str]]] = {
        "jemalloc, as served": ("jemalloc", {}),
        "jemalloc with huge pages": ("jemalloc", HUGE_JEMALLOC),
        "jemalloc, its defaults": ("jemalloc", {"MALLOC_CONF": ""}),
        "glibc with huge pages": ("glibc", {"GLIBC_TUNABLES": GLIBC_HUGE_PAGES}),
        "glibc": ("glibc", {}),
    }
    print(table(head, compare(allocators, arguments.rounds, common)) + "\n", flush=True)

    with huge_pages(graph) as copy, tempfile.TemporaryDirectory(dir=graph.parent) as temporary:
        made = orders(graph, Path(temporary), (arguments.audio, 2 * arguments.count))
        graphs = {"as discovered": graph, "depth first": made["dfs"], "hot first": made["hot"]}
        variants: dict[str, tuple[str, dict[str, str]]] = {
            name: ("jemalloc", {GRAPH_VARIABLE: str(file)}) for name, file in graphs.items()
        }
        variants["as discovered, in huge pages"] = ("jemalloc", {GRAPH_VARIABLE: str(copy)})
        print(table(head, compare(variants, arguments.rounds, common)) + "\n", flush=True)
        rows = []
        for name, file in graphs.items():
            pages, factor = touched(file, common)
            rows.append([name, f"{len(pages) * mmap.PAGESIZE / MB:.0f}", f"{factor:.3f}"])
        print(table(["order of states", "MB touched", "real-time factor, cold"], rows))


if __name__ == "__main__":
    main()
