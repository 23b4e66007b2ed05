"""Command `modelserver plan`: the number of machines of this kind that a load needs."""

import asyncio
from pathlib import Path

import click
import msgspec
import uvloop

from modelserver.batch.files import found
from modelserver.cli.options import with_settings
from modelserver.logs import configure_logs
from modelserver.serving.selection import worker_count
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration
from modelserver_tools.planning.load import Load, LoadUnreadable, of_file, supposed
from modelserver_tools.planning.machine import Machine, measured_machine, streams_of
from modelserver_tools.planning.queueing import (
    latency,
    machines_for,
    machines_for_streams,
    rate_within,
)
from modelserver_tools.planning.simulation import simulate
from supervisor import NotReady, counted, in_units

_NUMBERS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
_MEASURED = 40
"""Number of recordings to measure with, at most."""
_SIMULATED, _EACH = 20_000, 60
"""Number of requests to simulate: in total, and for each machine at least."""


@click.command()
@click.option(
    "--load",
    "load_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="a server's log in JSON, or lines of when,seconds",
)
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="recordings a second")
@click.option(
    "--mean",
    type=click.FloatRange(0, min_open=True),
    default=5.0,
    show_default=True,
    help="seconds of a recording",
)
@click.option(
    "--spread",
    type=click.FloatRange(0),
    default=0.8,
    show_default=True,
    help="standard deviation of the lengths over their mean",
)
@click.option(
    "--p95",
    "most_s",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    show_default=True,
    help="seconds within which 95 % of requests are answered",
)
@click.option(
    "--streams", type=click.FloatRange(0), default=0.0, help="live streams at once, on average"
)
@click.option(
    "--down",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="machines that may be missing",
)
@click.option(
    "--audio",
    multiple=True,
    metavar="FILE|DIR",
    help="measure with recordings like those that will come",
)
@click.option("--pace", type=float, help="seconds a second of audio takes, instead of measuring it")
@click.option("--overhead", type=float, default=0.01, help="seconds any recording takes, with it")
@click.option("--json", "as_json", is_flag=True, help="the same as JSON")
@with_settings("workers.count", "model", "models_dir", "prepared_dir", "language")
def plan(
    configuration: Configuration,
    load_file: Path | None,
    rate: float | None,
    mean: float,
    spread: float,
    most_s: float,
    streams: float,
    down: int,
    audio: tuple[str, ...],
    pace: float | None,
    overhead: float,
    as_json: bool,
) -> None:
    """Plan how many machines a load needs.

    Reports what a machine of this kind carries, by a formula and by a simulation. The machine is
    measured for a few seconds: nothing else should use it meanwhile.
    """
    if (load_file is None) == (rate is None) and not streams:
        raise click.UsageError("the load is missing: give --load FILE, --rate R, or --streams N")
    try:
        load = None
        if load_file is not None:
            load = of_file(load_file)
        elif rate is not None:
            load = supposed(rate, mean, spread)
        recordings = [Path(file).read_bytes() for file in found(audio)[:_MEASURED]]
        machine = _machine(configuration.settings, recordings, pace, overhead)
    except (LoadUnreadable, OSError) as error:
        raise click.ClickException(str(error)) from error
    except NotReady as error:
        raise click.ClickException(error.message) from error
    document = {"machine": machine, "p95_s": most_s, "down": down}
    lines = _about(machine)
    if load is not None:
        lines += _for_recordings(load, machine, most_s, down, document)
    if streams:
        lines += _for_streams(streams, machine, down, document)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(document)).decode())
        return
    for line in lines:
        click.echo(line)


def _machine(
    settings: Settings, recordings: list[bytes], pace: float | None, overhead: float
) -> Machine:
    if pace is not None:
        workers = worker_count(settings)
        carried = streams_of(workers, pace, settings.streams.share)
        return Machine(workers, pace, overhead, 0.1, carried, None, "as it was given")
    configure_logs(msgspec.structs.replace(settings.log, level="error"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measured_machine(settings, recordings))


def _about(machine: Machine) -> list[str]:
    memory = f"; it holds {in_units(machine.memory)} of memory" if machine.memory else ""
    takes = f"{1000 * machine.overhead_s:.0f} ms for a recording and {1000 * machine.pace:.1f} ms "
    carries = (
        f"{machine.carries:.0f} s of audio a second, or {counted(machine.streams, 'live stream')}"
    )
    return [
        (
            f"A machine of this kind: {counted(machine.workers, 'worker')}, "
            f"{takes}for each second of it:"
        ),
        f"{carries}{memory}",
        f"  ({machine.by})",
    ]


def _for_recordings(
    load: Load, machine: Machine, most_s: float, down: int, document: dict[str, object]
) -> list[str]:
    needed = machines_for(load, machine, most_s)
    lines = ["", f"To be carried: {load.rate:.3g} a second; {load.of}"]
    if needed is None:
        alone = latency(Load(1e-9, load.lengths, ""), machine, 1, 0.95)
        lines.append(
            f"No number of machines does that within {most_s:g} s: 95 % take {alone:.2f} s without "
            "any other load"
        )
    else:
        expected = latency(load, machine, needed, 0.95)
        lines.append(
            f"Needed: {counted(needed + down, 'machine')}, {down} of which may be missing; "
            f"with {needed} 95 % have their answer within {expected:.2f} s"
        )
    document.update(rate=load.rate, needed=None if needed is None else needed + down)
    lines += ["", *_table(load, machine, most_s, document), "", *_ASSUMED]
    return lines


def _table(load: Load, machine: Machine, most_s: float, document: dict[str, object]) -> list[str]:
    simulated = f"   simulated:{'P50':>8}{'P95':>8}{'P99':>8}{'BUSY':>7}"
    lines = [
        f"What machines carry so that 95 % take no longer than {most_s:g} s:",
        f"{'MACHINES':>8}{'A SECOND':>10}{'AUDIO S/S':>11}{'P95':>8}{simulated}",
    ]
    rows: list[dict[str, object]] = []
    for machines in _NUMBERS:
        rate = rate_within(load, machine, machines, most_s)
        if not rate:
            continue
        given = Load(rate, load.lengths, load.of)
        formula = latency(given, machine, machines, 0.95)
        seen = simulate(given, machine, machines, max(_SIMULATED, _EACH * machines))
        lines.append(
            f"{machines:>8}{rate:>10.2f}{rate * load.mean_s:>11.0f}{formula:>8.2f}"
            f"{'':>13}{seen.p50:>8.2f}{seen.p95:>8.2f}{seen.p99:>8.2f}{seen.busy:>7.0%}"
        )
        rows.append({"machines": machines, "rate": rate, "p95_s": formula, "simulated": seen})
    document["table"] = rows
    return lines


def _for_streams(
    streams: float, machine: Machine, down: int, document: dict[str, object]
) -> list[str]:
    needed = machines_for_streams(streams, machine)
    document.update(streams=streams, needed_for_streams=needed + down)
    places = needed * machine.streams
    machines = counted(needed + down, "machine")
    return [
        "",
        f"Live streams: {streams:g} at once on average need {machines}, {down} to",
        f"spare: of {places} places there, one stream of a hundred finds none.",
    ]


_ASSUMED = [
    "Assumed: recordings come independently of each other (a Poisson process); all machines are",
    "like this one and do nothing else; what waits, waits in front of them (deploy/haproxy); the",
    "network costs nothing; nothing dies. More machines than one are not measured here: the table",
    "is what this says of them.",
]
