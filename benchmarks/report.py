"""The report in Markdown, and the table of the READMEs, from the figures of a run.

`bench.py --keep` copies `results.json` to docs/benchmarks/, and `scripts/reference` writes
docs/benchmarks.md and the tables of README.md and README.zh-CN.md from that copy alone.
"""

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

    head: Sequence[str]
    servers: Mapping[str, str]
    """Labels of the servers that are shown, by the beginnings of their names in the report."""
    ended: str
    errors: str
    comma: str


ENGLISH = Words(
    head=(
        "model",
        "server",
        "seconds of audio per second",
        "memory, 4 workers",
        "requests lost when workers are killed",
    ),
    servers={
        "modelserver": "**modelserver**",
        "vosk-server": "vosk-server",
        "thread pool": "threads, vosk-server's method",
        "prefork": "a model in each process (prefork)",
        "sherpa-onnx's Python": "sherpa-onnx's Python server",
        "sherpa-onnx's C++": "sherpa-onnx's C++ server",
        "faster-whisper, threads": "faster-whisper, threads",
        "faster-whisper, processes": "faster-whisper, processes",
    },
    ended="{lost}, then gone",
    errors="Wrong characters in spoken Korean: {rates}.",
    comma=", ",
)
CHINESE = Words(
    head=("模型", "服务器", "每秒识别的音频秒数", "4 个工作进程的内存", "杀死工作进程时丢失的请求"),
    servers={
        "modelserver": "**modelserver**",
        "vosk-server": "vosk-server",
        "thread pool": "多线程（vosk-server 的方式）",
        "prefork": "每进程一份模型（prefork）",
        "sherpa-onnx's Python": "sherpa-onnx 的 Python 服务器",
        "sherpa-onnx's C++": "sherpa-onnx 的 C++ 服务器",
        "faster-whisper, threads": "faster-whisper，多线程",
        "faster-whisper, processes": "faster-whisper，多进程",
    },
    ended="{lost}，随后服务终止",
    errors="韩语真人语音的错字率：{rates}。",
    comma="、",
)


def proof(results: Results, error_rates: Mapping[str, float], words: Words) -> str:
    """Return the table of a README, and the sentence below it.

    `error_rates`: in percent, by the name of the model. Servers without figures are left out.
    """
    found = {name: one for name, one in results["benchmarks"].items() if not one["failed"]}
    whisper = found.get("whisper", {})
    rows: list[list[str]] = []
    for model, cells in (
        (
            "Vosk small",
            (
                _rates(found.get("throughput", {})),
                _memory(found.get("memory", {})),
                _lost(found.get("deaths", {}), words),
            ),
        ),
        ("Whisper base", (_rates(whisper), _memory(whisper), _lost(whisper, words))),
    ):
        rows += _rows(model, cells, words)
    rates = words.comma.join(f"{name} {rate:g} %" for name, rate in error_rates.items())
    below = [words.errors.format(rates=rates)] if rates else []
    return "\n\n".join([table(words.head, rows), *below])


def _rows(model: str, cells: Sequence[Mapping[str, str]], words: Words) -> list[list[str]]:
    """Return a row for each server that `words` has a label for and any of `cells` a figure."""
    rows: list[list[str]] = []
    for name, label in words.servers.items():
        row = [
            next((text for server, text in column.items() if server.startswith(name)), "")
            for column in cells
        ]
        if any(row):
            shown = [f"**{text}**" if text else "" for text in row] if not rows else row
            rows.append(["" if rows else model, label, *shown])
    return rows


def _rates(section: Mapping[str, Any]) -> dict[str, str]:
    rates = section.get("audio_s_per_s", {})
    return {name: f"{statistics.median(each):.1f}" for name, each in rates.items()}


def _memory(section: Mapping[str, Any]) -> dict[str, str]:
    held = section.get("anonymous_mb", {})
    at = section["workers"].index(4) if held else 0
    return {name: f"{mb[at]:,.0f} MB" for name, mb in held.items()}


def _lost(section: Mapping[str, Any], words: Words) -> dict[str, str]:
    found = {}
    for name, one in section.get("deaths", {}).items():
        lost = sum(one["lost"].values())
        back = one["back_s"] and one["back_s"][-1] is not None
        found[name] = str(lost) if back else words.ended.format(lost=lost)
    return found
