"""Command `modelserver doctor`: limits of this machine on a server, and recent problems."""

import os
import time
from pathlib import Path

import click

import models
from modelserver.admin.client import NoServer, fetch_health, printable
from modelserver.admin.health import Health
from modelserver.cli.options import SERVER_SETTINGS, with_settings
from modelserver.cli.status import in_words
from modelserver.own_packages import replaced_packages
from modelserver.serving.keywords import KeywordsUnreadable, read_keywords
from modelserver.serving.load_specs import find_model
from modelserver.serving.pool_settings import memory_settings
from modelserver.serving.selection import candidate, does_not_fit, engine_settings, worker_count
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration
from modelserver.settings.labels import own_settings, settings_for
from modelserver.speech.languages import all_languages, languages_text
from supervisor import (
    KernelLog,
    MemoryReader,
    OomCounter,
    counted,
    directory_problem,
    explain_limits,
    find_headroom,
    in_units,
    try_sandbox,
    usable_cpus,
)

_SHOWN_KILLS = 5


@click.command()
@with_settings(*SERVER_SETTINGS)
def doctor(configuration: Configuration) -> None:
    """Check this machine and the running server.

    Prints in plain words what limits them and what happened lately. Exit status: 1 if something
    needs your attention.
    """
    settings = configuration.settings
    problems = replaced_packages()
    _section("This machine", _machine(settings, problems))
    of_server: list[str] = []
    health, server = _running(settings, of_server)
    _section("The model", _model(settings, problems, alone=health is None))
    _section("The server", server)
    problems += of_server
    _section("The kernel's out-of-memory killer", _kernel(health, problems))
    click.echo()
    for problem in problems:
        click.echo(f"! {printable(problem)}")
    if problems:
        raise SystemExit(1)
    click.echo("Nothing needs attention.")


def _section(title: str, lines: list[str]) -> None:
    click.echo(f"{title}:")
    for line in lines:
        click.echo(f"  {printable(line)}")


def _machine(settings: Settings, problems: list[str]) -> list[str]:
    reading = MemoryReader().read()
    machine = reading.machine
    memory = f"{in_units(machine.total)} of memory, {in_units(machine.available)} available"
    lines = [
        f"{usable_cpus()} processors may be used; {memory}",
        f"swap: {in_units(machine.swap_total)}" if machine.swap_total else "no swap",
    ]
    lines += [
        f"{bound.name}: {in_units(bound.limit)}, {in_units(bound.used)} of it used for good"
        for bound in reading.bounds[1:]
    ]
    if len(reading.bounds) == 1:
        lines.append("no memory cgroup limits this process")
    for name, found in explain_limits(memory_settings(settings)).items():
        lines.append(f"{name} = {in_units(found.bytes)}: {found.reason}")
    if (problem := directory_problem(settings.spool.directory)) is not None:
        problems.append(f"spool.directory: {problem}")
    for engine in models.installed_engines():
        for finding in engine.findings(engine_settings(settings, engine)):
            (problems if finding.attention else lines).append(finding.text)
    lines.append(_sandbox(settings))
    return lines


def _sandbox(settings: Settings) -> str:
    if settings.sandbox == "off":
        return "sandbox of workers: off, by the settings"
    in_force, missing = try_sandbox()
    without = f"; not in force: {'; '.join(missing)}" if missing else ""
    return f"sandbox of workers: {', '.join(in_force) or 'none'}{without}"


def _model(settings: Settings, problems: list[str], *, alone: bool) -> list[str]:
    """Return lines about each model. `alone`: no server runs, so that all memory left is free for
    the model."""
    lines = []
    for label, own in own_settings(settings).items():
        lines += _one_model(settings_for(settings, label, own), problems, alone=alone)
    return lines


def _one_model(settings: Settings, problems: list[str], *, alone: bool) -> list[str]:
    try:
        location = find_model(settings)
        choice = candidate(location, settings)
    except models.ModelError as error:
        problems.append(error.message)
        return ["none"]
    on_disk = sum(file.stat().st_size for file in location.directory.rglob("*") if file.is_file())
    spoken = languages_text(all_languages(location.language, choice.form.abilities))
    lines = [f"{location.name} ({spoken}), {in_units(on_disk)} in {location.directory}"]
    problems += choice.problems
    if settings.keywords_file:
        try:
            count = len(read_keywords(Path(settings.keywords_file)))
            lines.append(f"keywords: {count} in {settings.keywords_file}")
        except KeywordsUnreadable as error:
            problems.append(f"keywords_file: {error}")
    engine = models.engine_of(location.directory)
    improvement = engine.improvement(location, engine_settings(settings, engine))
    lines.append(f"engine: {choice.engine}, form {choice.form.name}")
    lines += choice.form.notes
    if (punctuation := choice.punctuation.model) is not None:
        lines.append(f"punctuation: {punctuation.name}, {in_units(punctuation.part.private)}")
    if choice.punctuation.problem:
        problems.append(choice.punctuation.problem)
    if improvement is not None:
        lines.append(f"not prepared: {improvement.consequence}")
    workers, headroom = worker_count(settings), find_headroom(memory_settings(settings))
    least, whole = choice.needs(workers), choice.prediction.total(workers)
    better = f", better {in_units(whole)}" if whole > least else ""
    lines.append(f"needs about {in_units(least)} with {counted(workers, 'worker')}{better}")
    if alone and choice.needs(workers) > headroom.now:
        problems.append(does_not_fit(choice, workers, headroom))
    return lines


def _running(settings: Settings, problems: list[str]) -> tuple[Health | None, list[str]]:
    try:
        health = fetch_health(settings)
    except NoServer as error:
        return None, [str(error)]
    if health.status != "ok":
        problems += health.reasons
    return health, in_words(health)


def _kernel(health: Health | None, problems: list[str]) -> list[str]:
    counter = OomCounter()
    count, where = counter.read(), "this machine" if counter.of_machine else "this cgroup"
    counter.close()
    killed = counted(count or 0, "process", "processes")
    lines = [f"{killed} of {where} killed so far, by the kernel's own count"]
    log = KernelLog(from_start=True)
    if not log.readable:
        why = "try as root" if os.getuid() else "the kernel refuses it, as in most containers"
        return [*lines, f"its log cannot be read here ({why})"]
    reports = log.new_reports()
    log.close()
    booted = time.time() - time.monotonic()
    for report in reports[-_SHOWN_KILLS:]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(booted + report.seconds))
        lines.append(f"{when}: {report.sentence}")
    if not reports:
        lines.append("its log reports none")
    elif not count:
        lines.append("those were in other cgroups: the log is the whole machine's")
    if health is not None and health.exits_by_cause.get("kernel_oom"):
        problems.append(
            "the kernel has killed processes of this server: it needs a smaller limit "
            "of its own (memory.limit), or more memory"
        )
    return lines
