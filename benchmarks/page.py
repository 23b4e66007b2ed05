"""The files of a report: a page with tables and plots, Markdown, and all figures as JSON."""

import html
import importlib.metadata
import itertools
import json
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from findings import Finding, Plot, Table
from report import ABOUT, markdown

matplotlib.use("Agg")
from matplotlib import pyplot, ticker

ROOT = Path(__file__).parents[1]
_PACKAGES = (
    "vosk",
    "sherpa-onnx",
    "aiohttp",
    "uvloop",
    "av",
    "mosec",
    "litserve",
    "locust",
    "matplotlib",
)
_OWN = {
    "modelserver": "#0b6e4f",
    "thread pool": "#c1292e",
    "vosk-server": "#c1292e",
    "MOSEC": "#33658a",
    "LitServe": "#f2a541",
    "prefork": "#6b4e9b",
    "single process": "#555555",
}
"""The same colour in every plot."""
_OTHERS = ("#a3a380", "#d16ba5", "#1b9aaa")
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1b1b; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
.wide { overflow-x: auto; }
img { max-width: 100%; height: auto; }
pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: .8rem; }
"""


@dataclass(frozen=True)
class Section:
    """A benchmark's part of the report. `failed`: why it has no figures."""

    name: str
    title: str
    about: str
    took_s: float
    finding: Finding
    failed: str = ""
    output: str = ""


def machine() -> dict[str, str]:
    """Return the facts of the machine, the packages and the commit."""
    memory = int(_first(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo"))) * 1024
    system = _first(r'^PRETTY_NAME="(.*)"$', Path("/etc/os-release"))
    facts = {
        "processor": _first(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo")),
        "processors": str(len(re.findall(r"^processor\s*:", _text("/proc/cpuinfo"), re.MULTILINE))),
        "memory": f"{memory / 1e9:.1f} GB",
        "system": f"{system}, Linux {platform.release().split('-')[0]}",
        "Python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    facts["commit"] = _commit()
    return facts


def write(directory: Path, facts: dict[str, str], sections: Sequence[Section]) -> None:
    """Write all files: `index.html`, `report.md`, `results.json` and a PNG for each plot."""
    directory.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for plot in section.finding.plots:
            _draw(plot, directory / f"{plot.name}.png")
    results = {
        "facts": facts,
        "benchmarks": {
            one.name: {
                "title": one.title,
                "took_s": round(one.took_s, 1),
                "about": one.about,
                "failed": one.failed or None,
                "notes": one.finding.notes,
                "tables": [
                    {"title": t.title, "head": list(t.head), "rows": [list(r) for r in t.rows]}
                    for t in one.finding.tables
                ],
                "plots": [{"name": p.name, "title": p.title} for p in one.finding.plots],
                "output": one.output,
                **one.finding.raw,
            }
            for one in sections
        },
    }
    (directory / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (directory / "report.md").write_text(markdown(results))
    (directory / "index.html").write_text(_html(facts, sections))


def _draw(plot: Plot, file: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    others = itertools.cycle(_OTHERS)
    for line in plot.lines:
        colour = _OWN.get(line.name) or next(others)
        if plot.steps:
            axes.plot(line.x, line.y, label=line.name, color=colour, linewidth=1.8)
        else:
            axes.plot(line.x, line.y, "o-", label=line.name, color=colour, markersize=5)
    if plot.log_x:
        axes.set_xscale("log")
    if plot.log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    for axis, logarithmic in ((axes.xaxis, plot.log_x), (axes.yaxis, plot.log_y)):
        if not logarithmic:
            axis.set_major_locator(ticker.MaxNLocator(integer=True))
        else:
            axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
            axis.set_minor_formatter(ticker.NullFormatter())
    for at, what in plot.marks:
        axes.axvline(at, color="#999", linewidth=0.8, linestyle="--")
        axes.annotate(
            what, (at, 1), xycoords=("data", "axes fraction"), xytext=(3, -11),
            textcoords="offset points", fontsize=8, color="#555",
        )  # fmt: skip
    axes.set_title(plot.title, loc="left", fontsize=11)
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(plot.lines) > 1:
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _html(facts: dict[str, str], sections: Sequence[Section]) -> str:
    body = [
        "<h1>Benchmarks</h1>",
        f"<p>{_inline(' '.join(ABOUT))}</p>",
        _html_table(Table("", ("", ""), list(facts.items()))),
    ]
    body.append("<ul>")
    body += [f'<li><a href="#{one.name}">{html.escape(one.title)}</a></li>' for one in sections]
    body.append("</ul>")
    for one in sections:
        body.append(f'<h2 id="{one.name}">{html.escape(one.title)}</h2>')
        body.append(f"<p>{_inline(one.about)} ({one.took_s:.0f} s)</p>")
        if one.failed:
            body.append(f"<p><strong>Left out:</strong> {_inline(one.failed)}.</p>")
        if one.finding.notes:
            notes = "".join(f"<li>{_inline(text)}</li>" for text in one.finding.notes)
            body.append(f"<ul>{notes}</ul>")
        body += [_html_table(shown) for shown in one.finding.tables]
        body += [
            f'<p><img src="{plot.name}.png" alt="{html.escape(plot.title)}"></p>'
            for plot in one.finding.plots
        ]
        if one.output:
            body.append(f"<pre>{html.escape(one.output.strip())}</pre>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>modelserver: benchmarks</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _html_table(shown: Table) -> str:
    caption = f"<caption>{_inline(shown.title)}</caption>" if shown.title else ""
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in shown.head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>"
        for row in shown.rows
    )
    head = f"<tr>{head}</tr>" if any(shown.head) else ""
    return f'<div class="wide"><table>{caption}{head}{rows}</table></div>'


def _inline(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def _first(pattern: str, file: Path) -> str:
    match = re.search(pattern, _text(str(file)), re.MULTILINE)
    return match.group(1) if match else "unknown"


def _text(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError:
        return ""
