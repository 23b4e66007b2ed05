"""The report in Markdown, and the table of the READMEs, from the figures of a run.

`bench.py --keep` copies `results.json` to docs/benchmarks/, and `scripts/reference` writes
docs/benchmarks.md and the tables of README.md and README.zh-CN.md from that copy alone.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tables import table

ABOUT = (
    (
        "Made by `make bench`, which starts all servers of a comparison and sends requests to "
        "them in turn, in the same minutes on the same machine."
    ),
    "Compare figures of one section only: each section is a run of its own.",
    "A cell is a median, with the lowest and the highest value in brackets.",
    (
        "The speech is synthetic (espeak-ng): trust the ratios, and measure your own audio with "
        "`--audio DIR`."
    ),
    "`benchmarks/README.md` describes the servers.",
)

MEASURED = {"vosk-model-small-ko-0.22": "Vosk small", "sherpa-onnx-whisper-base": "Whisper base"}
"""Models of the catalogue whose error rates a README shows, with the names that it uses."""

Results = Mapping[str, Any]
"""The content of `results.json`."""


def markdown(results: Results) -> str:
    """Return the report."""
    parts = ["# Benchmarks", "\n".join(ABOUT)]
    facts = [(name, str(value)) for name, value in results["facts"].items()]
    parts.append(table(("measured on", ""), facts))
    for name, one in results["benchmarks"].items():
        parts += [f"## {one['title']} (`{name}`)", one["about"]]
        if one["failed"]:
            parts.append(f"Left out: {one['failed']}.")
        parts.append("\n".join(f"- {note}" for note in one["notes"]))
        for shown in one["tables"]:
            title = f"**{shown['title']}**" if shown["title"] else ""
            parts += [title, table(shown["head"], shown["rows"])]
        parts += [f"![{plot['title']}]({plot['name']}.png)" for plot in one["plots"]]
        if one["output"]:
            parts.append(f"```\n{one['output'].strip()}\n```")
    return "\n\n".join(filter(None, parts)) + "\n"


@dataclass(frozen=True)
class Words:
    """The words of the READMEs' table in one language; names in braces are replaced."""

    threads: str
    processes: str
    sherpa: str
    method: str
    comma: str
    throughput: str
    memory: str
    deaths: str
    ended: str
    errors: str


ENGLISH = Words(
    threads="threads ({servers})",
    processes="a model in each process ({servers})",
    sherpa="sherpa-onnx's server",
    method="vosk-server's method",
    comma=", ",
    throughput="{engine}, seconds of audio per second",
    memory="{engine}, memory, 4 workers",
    deaths="{engine}, requests lost when workers are killed",
    ended="{lost}, then it is gone",
    errors="wrong characters, spoken Korean",
)
CHINESE = Words(
    threads="多线程（{servers}）",
    processes="每进程一份模型（{servers}）",
    sherpa="sherpa-onnx 的服务器",
    method="vosk-server 的方式",
    comma="、",
    throughput="{engine}，每秒识别的音频秒数",
    memory="{engine}，4 个工作进程的内存",
    deaths="{engine}，工作进程被杀死时丢失的请求",
    ended="{lost}，随后服务终止",
    errors="韩语真人语音的错字率",
)
_THREADS = ("vosk-server", "thread pool", "faster-whisper, threads")
_PROCESSES = ("prefork", "faster-whisper, processes")
_SHERPA = "sherpa-onnx"
"""Servers of the columns, by the beginnings of their names."""


def proof(results: Results, error_rates: Mapping[str, float], words: Words) -> str:
    """Return the table of a README. `error_rates`: in percent, by the name of the engine's model.
    A row without figures is left out, and so is a column without cells."""
    found = {name: one for name, one in results["benchmarks"].items() if not one["failed"]}
    whisper = found.get("whisper", {})
    rows: list[list[str]] = []
    for title, name, cells in (
        (words.throughput, "throughput", _rates),
        (words.memory, "memory", _memory),
        (words.deaths, "deaths", _lost),
    ):
        for engine, section in (("Vosk", found.get(name, {})), ("Whisper base", whisper)):
            if row := _row(cells(section, words)):
                rows.append([title.format(engine=engine), *row])
    if error_rates:
        rates = words.comma.join(f"{name} {rate:g} %" for name, rate in error_rates.items())
        rows.append([words.errors, rates, "", "", ""])
    names = {
        name
        for one in found.values()
        for name in one.get("audio_s_per_s", one.get("anonymous_mb", ()))
    }
    head = ["", "modelserver", *_heads(names, words)]
    used = [n for n in range(len(head)) if n < 2 or any(row[n] for row in rows)]
    return table([head[n] for n in used], [[row[n] for n in used] for row in rows])


def _heads(names: set[str], words: Words) -> Sequence[str]:
    """Return the heads of the columns, with the servers of `names` that are in them."""

    def servers(column: Sequence[str]) -> str:
        there = [name for name in column if name in names]
        return words.comma.join(
            words.method if name == "thread pool" else name.partition(",")[0] for name in there
        )

    threads = words.threads.format(servers=servers(_THREADS))
    return threads, words.processes.format(servers=servers(_PROCESSES)), words.sherpa


def _row(cells: Mapping[str, tuple[float, str]]) -> list[str]:
    """Return the cells of the columns; of several servers in one column, the best one's. `cells`:
    for each server a number, which is better if it is lower, and a text."""
    if not cells:
        return []
    row = [f"**{cells['modelserver'][1]}**"]
    for names in (_THREADS, _PROCESSES, _SHERPA):
        there = [cell for name, cell in cells.items() if name.startswith(names)]
        row.append(min(there)[1] if there else "")
    return row


def _rates(section: Mapping[str, Any], _words: Words) -> dict[str, tuple[float, str]]:
    rates = section.get("audio_s_per_s", {})
    medians = {name: statistics.median(each) for name, each in rates.items()}
    return {name: (-rate, f"{rate:.1f}") for name, rate in medians.items()}


def _memory(section: Mapping[str, Any], _words: Words) -> dict[str, tuple[float, str]]:
    held = section.get("anonymous_mb", {})
    at = section["workers"].index(4) if held else 0
    return {name: (mb[at], f"{mb[at]:,.0f} MB") for name, mb in held.items()}


def _lost(section: Mapping[str, Any], words: Words) -> dict[str, tuple[float, str]]:
    found = {}
    for name, one in section.get("deaths", {}).items():
        lost = sum(one["lost"].values())
        back = one["back_s"] and one["back_s"][-1] is not None
        found[name] = (lost, str(lost)) if back else (math.inf, words.ended.format(lost=lost))
    return found
