"""Five hundred files and bodies that should not be, of `benchmarks/hostile.py`, and those that are
made to hold the event loop or the memory."""

import pytest
from hostile import HEAVY, attempts, run, run_heavy
from pulse import MOST_S
from running import RunningServer

MB = 1_000_000


def test_no_file_and_no_body_is_an_error_of_ours(server: RunningServer) -> None:
    run(server, attempts(100, 0))  # as it is after a while
    outcome = run(server, attempts(500, 2))
    assert outcome.wrong == []
    assert outcome.worker_exits == 0
    assert sum(outcome.statuses.values()) == 500
    assert outcome.statuses[200] > 50
    assert outcome.grown["spools"] == 0
    assert outcome.grown["supervisor_rss"] < 10 * MB
    assert outcome.grown["supervisor_descriptors"] < 10
    assert outcome.grown["largest_worker_growth"] < 60 * MB


@pytest.mark.parametrize("what", HEAVY)
def test_no_body_holds_the_event_loop_or_the_memory(server: RunningServer, what: str) -> None:
    run_heavy(server, what)  # made once, for all tests
    worst = []
    for _ in range(3):  # another program may have had the processor meanwhile
        outcome = run_heavy(server, what)
        assert outcome.status in (200, 400, 413)
        assert outcome.grown_bytes < 20 * MB
        worst.append(outcome.worst_pulse_s)
        if worst[-1] < MOST_S:
            return
    raise AssertionError(f"/healthz took {worst}")
