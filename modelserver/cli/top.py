"""Command `modelserver top`: a running server, live in a terminal."""

import contextlib
import curses
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import click
import msgspec

from modelserver.admin.client import NoServer, fetch, fetch_health, printable
from modelserver.admin.health import Health, WorkerHealth
from modelserver.admin.history import FIELDS, Sample
from modelserver.admin.sentences import (
    Sentence,
    death_sentences,
    jobs_sentence,
    memory_sentences,
    requests_sentence,
    span,
    streams_sentence,
    uploads_sentence,
)
from modelserver.cli.options import with_settings
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration
from supervisor import in_units

_BAR, _DEATHS = 30, 8
_BAD = ("unavailable", "critical")
_RECENT_S = 5.0


class _History(msgspec.Struct):
    fields: list[str]
    short: list[Sample]


@dataclass(frozen=True, slots=True)
class Line:
    """Line of the screen. `mark`: "title", "bad", "warn", or "" if it needs no attention."""

    text: str
    mark: str = ""


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="seconds between two updates",
)
@click.option("-n", "--count", type=click.IntRange(1), help="exit after this many updates")
@click.option(
    "-b",
    "--batch",
    is_flag=True,
    help="print updates one below the other; the default if the output is not a terminal",
)
@with_settings("admin.listen")
def top(configuration: Configuration, interval: float, count: int | None, batch: bool) -> None:
    """Show the running server live in the terminal; q quits."""
    looks = _looks(configuration.settings, count)
    if batch or not _terminal():
        _print(looks, interval)
    else:
        curses.wrapper(_show, looks, interval)


def _terminal() -> bool:
    """Return whether there is a terminal that curses can draw on."""
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        return False
    try:
        curses.setupterm()
    except curses.error:
        return False
    return True


def _looks(settings: Settings, count: int | None) -> Iterator[list[Line]]:
    """Yield the screen for each look at the server. The first look must succeed; later, a server
    that restarts is waited for."""
    seen = False
    while count is None or count > 0:
        try:
            health = fetch_health(settings)
            history = fetch(
                settings, f"/admin/history?since={time.time() - _RECENT_S:.1f}", _History
            )
        except NoServer as error:
            if not seen:
                raise click.ClickException(str(error)) from error
            yield [Line(f"modelserver: {error}", "bad")]
        else:
            seen = True
            known = history.short and tuple(history.fields) == FIELDS
            yield in_lines(health, history.short[-1] if known else None)
        if count is not None:
            count -= 1


def in_lines(health: Health, sample: Sample | None) -> list[Line]:
    """Return the screen's lines, the most urgent first."""
    return [
        *_verdict(health),
        _line(requests_sentence(health)),
        *_speed(sample),
        _line(streams_sentence(health)),
        *map(_line, memory_sentences(health)),
        *_bar(health),
        _line(uploads_sentence(health)),
        _line(jobs_sentence(health)),
        Line(""),
        *_workers(health),
        *_deaths(health),
    ]


def _verdict(health: Health) -> Iterator[Line]:
    mark = "bad" if health.status in _BAD else "" if health.status == "ok" else "warn"
    name = health.model.get("model", "no model")
    yield Line(
        f"modelserver {health.version}: {health.status}, up {span(health.uptime_s)}, "
        f"pid {health.pid}, {name}",
        mark or "title",
    )
    for reason in health.reasons:
        yield Line(f"  {reason}", mark)
    if health.preparing:
        yield Line(f"  preparing {health.preparing}")


def _line(sentence: Sentence) -> Line:
    return Line(f"{sentence.subject:<10}{sentence.text}", sentence.mark)


def _speed(sample: Sample | None) -> Iterator[Line]:
    if sample is None:
        return
    took = ""
    if sample.p50 is not None and sample.p95 is not None:
        took = f"; in the last minute half within {sample.p50:.2f} s, 95 % {sample.p95:.2f} s"
    failing = f", {sample.failures:.1f} of them failing" if sample.failures else ""
    yield Line(
        f"speed     {sample.requests:.1f} requests a second{failing}, "
        f"{sample.audio:.1f} s of audio a second{took}",
        "bad" if sample.failures else "",
    )


def _bar(health: Health) -> Iterator[Line]:
    if (memory := health.memory) is not None:
        full = min(1.0, memory.used_bytes / max(1, memory.limit_bytes - memory.reserve_bytes))
        yield Line(f"          [{'#' * round(_BAR * full):-<{_BAR}}]")


def _workers(health: Health) -> Iterator[Line]:
    several = len(health.models) > 1
    yield Line(
        f"{'WORKER':>6} {'STATE':<9}{'PID':>8}{'DONE':>8}{'WORKED':>9}{'GROWN BY':>10}{'OF':>9}"
        f"{'RSS':>9}{'  MODEL' if several else ''}",
        "title",
    )
    for worker in health.workers:
        yield Line(_worker(worker, several), "bad" if worker.silent_s > 1 else "")


def _worker(worker: WorkerHealth, several: bool) -> str:
    worked = f"{worker.busy_s:.1f} s"
    rss = "-" if worker.rss_bytes is None else in_units(worker.rss_bytes)
    return (
        f"{worker.id:>6} {worker.state:<9}{worker.pid:>8}{worker.jobs_done:>8}{worked:>9}"
        f"{in_units(worker.growth_bytes):>10}{in_units(worker.budget_bytes):>9}{rss:>9}"
        f"{f'  {worker.model}' if several else ''}"
    )


def _deaths(health: Health) -> Iterator[Line]:
    if health.last_deaths:
        yield Line("")
        yield Line("ENDED WITHOUT BEING ASKED", "title")
    for said in death_sentences(health, _DEATHS):
        yield Line(f"{said.subject:>11}: {said.text}", said.mark)


def _print(looks: Iterator[list[Line]], interval: float) -> None:
    for lines in looks:
        for line in lines:
            click.echo(printable(line.text))
        click.echo()
        sys.stdout.flush()
        time.sleep(interval)


def _show(screen: "curses.window", looks: Iterator[list[Line]], interval: float) -> None:
    marks = _marks()
    screen.timeout(round(interval * 1000))
    for lines in looks:
        while True:
            _draw(screen, lines, marks)
            key = screen.getch()
            if key in (ord("q"), ord("Q"), 27):
                return
            if key != curses.KEY_RESIZE:
                break


def _marks() -> dict[str, int]:
    """Never by colour alone: what is bad is bold, too."""
    marks = {"title": curses.A_BOLD, "warn": curses.A_BOLD, "bad": curses.A_BOLD | curses.A_REVERSE}
    with contextlib.suppress(curses.error):
        curses.curs_set(0)
    if curses.has_colors():
        curses.use_default_colors()
        curses.init_pair(1, curses.COLOR_YELLOW, -1)
        curses.init_pair(2, curses.COLOR_RED, -1)
        marks["warn"] |= curses.color_pair(1)
        marks["bad"] = curses.A_BOLD | curses.color_pair(2)
    return marks


def _draw(screen: "curses.window", lines: list[Line], marks: dict[str, int]) -> None:
    screen.erase()
    height, width = screen.getmaxyx()
    for row, line in enumerate(lines[:height]):
        with contextlib.suppress(curses.error):  # the last column of the last line
            screen.addnstr(row, 0, printable(line.text), width, marks.get(line.mark, 0))
    screen.refresh()
