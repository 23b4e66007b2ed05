"""Number of machines that a load needs: the formula against known values and against the
simulation."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from modelserver_tools.planning.load import Load, LoadUnreadable, of_file, supposed
from modelserver_tools.planning.machine import HTTP_S, Machine
from modelserver_tools.planning.queueing import (
    erlang_b,
    erlang_c,
    latency,
    machines_for,
    machines_for_streams,
    rate_within,
)
from modelserver_tools.planning.simulation import simulate

MACHINE = Machine(2, 0.03, 0.01, 0.1, 30, None, "")


def test_erlangs_formulas_give_what_their_tables_say() -> None:
    # Of the published tables: 10 circuits carry 4.46 erlangs with one call of a hundred lost.
    assert erlang_b(10, 4.46) == pytest.approx(0.01, rel=0.01)
    assert erlang_b(1, 1.0) == 0.5
    # A single server waits as often as it is busy.
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(3, 3.0) == 1.0
    assert 0 < erlang_c(2000, 1900) < 0.1


def test_without_a_queue_a_request_takes_what_it_takes() -> None:
    load = Load(1e-6, (5.0,), "")
    alone = MACHINE.service_s(5.0) + HTTP_S
    assert latency(load, MACHINE, 1, 0.95) == pytest.approx(alone, rel=0.01)
    assert math.isinf(latency(Load(1000, (5.0,), ""), MACHINE, 1, 0.95))


def test_one_server_of_exponential_services_is_the_textbooks() -> None:
    """Compare with M/M/1, whose 95th percentile is ln(20) / (mu - lambda)."""
    lengths = tuple(-math.log(1 - (n + 0.5) / 4000) for n in range(4000))
    one = Machine(1, 1.0, 0.0, 0.0, 1, None, "")
    load = Load(0.7, lengths, "")
    expected = math.log(20) / 0.3 + HTTP_S
    assert latency(load, one, 1, 0.95) == pytest.approx(expected, rel=0.05)
    assert simulate(load, one, 1, 60_000).p95 == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("machines", [1, 2, 10])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_formula_and_simulation_agree(machines: int, share: float) -> None:
    load = supposed(1.0, 5.0, 0.8)
    most = machines * MACHINE.workers / (MACHINE.overhead_s + MACHINE.pace * load.mean_s)
    given = Load(share * most, load.lengths, "")
    seen = simulate(given, MACHINE, machines, 30_000)
    assert seen.p95 == pytest.approx(latency(given, MACHINE, machines, 0.95), rel=0.2)
    assert seen.throughput == pytest.approx(given.rate * given.mean_s, rel=0.05)
    assert seen.busy == pytest.approx(share, rel=0.06)


def test_a_simulation_can_be_made_again() -> None:
    load = supposed(5.0, 5.0, 0.8)
    assert simulate(load, MACHINE, 1, 2000) == simulate(load, MACHINE, 1, 2000)
    assert simulate(load, MACHINE, 1, 2000, seed=2) != simulate(load, MACHINE, 1, 2000)


def test_the_number_of_machines_is_the_least_that_does() -> None:
    load = supposed(40.0, 5.0, 0.8)
    needed = machines_for(load, MACHINE, 1.0)
    assert needed is not None
    assert latency(load, MACHINE, needed, 0.95) <= 1.0 < latency(load, MACHINE, needed - 1, 0.95)
    assert machines_for(load, MACHINE, 0.01) is None
    rate = rate_within(load, MACHINE, needed, 1.0)
    assert rate >= 40.0
    assert latency(Load(rate * 1.01, load.lengths, ""), MACHINE, needed, 0.95) > 1.0
    assert rate_within(load, MACHINE, 3, 0.01) == 0


def test_streams_find_a_place_but_for_one_of_a_hundred() -> None:
    needed = machines_for_streams(100, MACHINE)
    assert erlang_b(needed * 30, 100) <= 0.01 < erlang_b((needed - 1) * 30, 100)
    assert machines_for_streams(0.1, MACHINE) == 1


def test_lengths_are_as_they_were_said_to_be() -> None:
    load = supposed(1.0, 7.0, 0.5)
    assert load.mean_s == pytest.approx(7.0)
    deviation = math.sqrt(sum((x - 7) ** 2 for x in load.lengths) / len(load.lengths))
    assert deviation / 7 == pytest.approx(0.5, rel=0.1)
    assert set(supposed(1.0, 7.0, 0.0).lengths) == {7.0}


def test_a_load_is_read_from_a_log_or_a_list(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    lines = [
        json.dumps(
            {
                "event": "request.done",
                "status": 200,
                "audio_s": 4.0,
                "timestamp": f"2026-01-01T00:{n // 60:02d}:{n % 60:02d}.5Z",
            }
        )
        for n in range(100)
    ]
    lines += ['{"event": "request.done", "status": 503, "audio_s": 9.0}', "no JSON", "{}"]
    log.write_text("\n".join(lines))
    load = of_file(log)
    assert (load.mean_s, len(load.lengths)) == (4.0, 100)
    assert load.rate == pytest.approx(1.0, rel=0.05)
    listed = tmp_path / "list.csv"
    # Ten a second in one of ten minutes, one a second else.
    rows = [(n / 10, 2) for n in range(600)] + [(60 + n, 3) for n in range(540)]
    listed.write_text("when,seconds\n" + "\n".join(f"{when},{length}" for when, length in rows))
    assert of_file(listed).rate == pytest.approx(10, rel=0.05)
    for text in ("", "1,2\n3,4\n", "when,seconds\n" * 50, "1,2\n" * 50, "a,b\n1,nan\n" * 50):
        listed.write_text(text)
        with pytest.raises(LoadUnreadable):
            of_file(listed)


def _plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modelserver", "plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def test_the_command_says_it_in_words_and_as_json() -> None:
    given = ["--pace", "0.03", "--workers", "2", "--rate", "20", "--p95", "1", "--streams", "40"]
    done = _plan(*given)
    assert done.returncode == 0, done.stderr
    assert "67 s of audio a second" in done.stdout
    assert "\n    1000 " in done.stdout
    assert "Assumed:" in done.stdout
    document = json.loads(_plan(*given, "--json").stdout)
    assert f"Needed: {document['needed']} machines" in done.stdout
    assert document["table"][-1]["machines"] == 1000
    assert document["needed_for_streams"] >= 2


def test_what_cannot_be_planned_is_told(tmp_path: Path) -> None:
    assert "the load is missing" in _plan().stderr
    assert "the load is missing" in _plan("--rate", "1", "--load", __file__).stderr
    (tmp_path / "x").write_text("nothing")
    done = _plan("--load", str(tmp_path / "x"), "--pace", "0.03")
    assert done.returncode == 1
    assert "at least 20 are needed" in done.stderr
    done = _plan("--rate", "1", "--pace", "0.03", "--p95", "0.001")
    assert "No number of machines does that" in done.stdout
    assert "at least" not in done.stdout


def test_the_machine_is_measured(tmp_path: Path) -> None:
    done = _plan("--rate", "0.1", "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    machine = json.loads(done.stdout)["machine"]
    assert machine["workers"] == 1
    assert 0.001 < machine["pace"] < 1
    assert machine["memory"] > 100_000_000
