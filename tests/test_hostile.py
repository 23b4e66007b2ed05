"""Five hundred files and bodies that should not be, of `benchmarks/hostile.py`."""

from hostile import attempts, run
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
