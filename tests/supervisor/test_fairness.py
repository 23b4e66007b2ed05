"""Fairness: turns between clients, and the order within a client's items."""

import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import FairQueue

pytestmark = pytest.mark.quick

Work = tuple[str, float, int]


def taken(queue: FairQueue[Work]) -> list[Work]:
    order = []
    while (item := queue.first()) is not None:
        queue.take(item)
        order.append(item)
    return order


def filled(*works: Work) -> FairQueue[Work]:
    queue: FairQueue[Work] = FairQueue()
    for work in works:
        queue.add(work, work[0], work[1])
    return queue


def test_one_client_is_served_in_the_order_of_arrival() -> None:
    works = [("a", cost, n) for n, cost in enumerate((3.0, 900.0, 1.0, 0.0, 7.0))]
    assert taken(filled(*works)) == works


def test_who_brings_one_does_not_wait_for_who_brings_many() -> None:
    many = [("many", 10.0, n) for n in range(50)]
    one = ("one", 10.0, 0)
    assert taken(filled(*many, one)).index(one) == 1


def test_who_brings_short_ones_gets_as_much_time_as_who_brings_long_ones() -> None:
    long = [("long", 60.0, n) for n in range(20)]
    short = [("short", 3.0, n) for n in range(400)]
    order = taken(filled(*long, *short))
    seconds: dict[str, float] = defaultdict(float)
    for client, cost, _ in order[:210]:
        seconds[client] += cost
    assert seconds["long"] == pytest.approx(seconds["short"], abs=63)


def test_nothing_is_saved_up_while_one_is_away() -> None:
    queue = filled(*(("a", 1.0, n) for n in range(100)))
    for _ in range(50):
        first = queue.first()
        assert first is not None
        queue.take(first)
    for n in range(100):
        queue.add(("late", 1.0, n), "late", 1.0)
    nexts = [client for client, _, _ in taken(queue)[:40]]
    assert 18 <= nexts.count("late") <= 22


def test_what_comes_back_is_the_next_and_what_leaves_is_not_counted() -> None:
    queue = filled(("a", 1.0, 0), ("a", 1000.0, 1), ("a", 1.0, 2), ("b", 5.0, 0))
    first = queue.first()
    assert first is not None
    queue.take(first)
    queue.put_back(first)
    assert queue.first() is first
    gone = next(item for item in queue if item[2] == 1)
    queue.discard(gone)
    queue.discard(gone)
    queue.add(("a", 1.0, 3), "a", 1.0)
    assert ("a", 1000.0, 1) not in list(queue)
    queue.add(("b", 1.0, 1), "b", 1.0)
    assert len(queue) == 5
    assert queue.clear()
    assert queue.first() is None
    with pytest.raises(ValueError, match="does not wait"):
        queue.take(first)


@given(
    arrivals=st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(0.1, 60), st.floats(0, 20)), max_size=120
    ),
    servers=st.integers(1, 4),
)
def test_while_two_have_something_waiting_neither_gets_much_more(
    arrivals: list[tuple[str, float, float]], servers: int
) -> None:
    """A simulation: so many servers, each a piece at a time. What one client is given more than
    another while both wait is bounded by what each of them brings at once (Goyal et al., 1996)."""
    queue: FairQueue[Work] = FairQueue()
    coming, at = [], 0.0
    for number, (client, cost, gap) in enumerate(arrivals):
        at += gap
        coming.append((at, (client, cost, number)))
    busy_until = [0.0] * servers
    given_s: dict[str, float] = defaultdict(float)
    since: dict[str, dict[str, float]] = {}
    most = max((cost for _, cost, _ in arrivals), default=0.0)
    served = []
    now = 0.0
    while coming or len(queue):
        while coming and coming[0][0] <= now:
            _, work = coming.pop(0)
            queue.add(work, work[0], work[1])
        free = [n for n, until in enumerate(busy_until) if until <= now]
        while free and (work := queue.first()) is not None:
            waiting = {item[0] for item in queue}
            since = {who: since.get(who) or dict(given_s) for who in waiting}
            queue.take(work)
            given_s[work[0]] += work[1]
            served.append(work)
            busy_until[free.pop()] = now + work[1]
            for one in waiting:
                for other in waiting:
                    # Both have waited since the later of their beginnings.
                    begin_one, begin_other = since[one], since[other]
                    base = max(begin_one, begin_other, key=lambda given: sum(given.values()))
                    one_s = given_s[one] - base.get(one, 0.0)
                    other_s = given_s[other] - base.get(other, 0.0)
                    assert abs(one_s - other_s) <= 2 * most + 1e-6
        later = [until for until in busy_until if until > now]
        if coming:
            later.append(coming[0][0])
        now = min((time for time in later if time > now), default=now + 1)
    assert sorted(work[2] for work in served) == list(range(len(arrivals)))


def test_a_hundred_clients_of_all_sizes_share_alike() -> None:
    chance = random.Random(1)
    works = [(f"client {n}", 1.0 + n % 7, index) for n in range(100) for index in range(200)]
    chance.shuffle(works)
    seconds: dict[str, float] = defaultdict(float)
    total = 0.0
    for client, cost, _ in taken(filled(*works)):
        seconds[client] += cost
        total += cost
        if total > 10_000:
            break
    assert max(seconds.values()) - min(seconds.values()) <= 14
