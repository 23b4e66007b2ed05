"""Simulation of a load on machines, request by request.

As `deploy/haproxy` does it: each machine is given at most two requests for each of its workers, the
one with the fewest in proportion first; other requests wait in front.
"""

import heapq
import random
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import simpy

from modelserver.serving.sizing import AT_ONCE_EACH
from modelserver_tools.planning.load import Load
from modelserver_tools.planning.machine import HTTP_S, Machine

Arrival = tuple[float, float]
"""Time at which a recording comes, and its length; in seconds."""
_WARM = 0.1
"""Share of the requests that do not count: until the queues have settled."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """Latencies in seconds; `throughput`: seconds of audio per second; `busy`: share of the
    workers' time."""

    p50: float
    p95: float
    p99: float
    throughput: float
    busy: float


class _Machine:
    """Machine, and the requests that it was given."""

    def __init__(self, workers: int) -> None:
        self.idle = workers
        self.inside = 0
        self.waiting: deque[tuple[float, float]] = deque()


class _Run:
    def __init__(self, machine: Machine, machines: int, seed: int) -> None:
        self.env = simpy.Environment()
        self._machine = machine
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._machines = [_Machine(machine.workers) for _ in range(machines)]
        # The machine with the fewest first; outdated entries are skipped.
        self._order = [(0, number) for number in range(machines)]
        self._front: deque[tuple[float, float]] = deque()
        self.done: list[tuple[float, float, float]] = []  # when it came, took, and its length
        self.busy_s = 0.0

    def arrive(self, arrivals: Iterable[Arrival]) -> Generator[Any, None, None]:
        for when, length in arrivals:
            yield self.env.timeout(when - self.env.now)
            self._front.append((self.env.now, length))
            self._hand_out()

    def _hand_out(self) -> None:
        while self._front and (number := self._with_room()) is not None:
            machine = self._machines[number]
            machine.inside += 1
            heapq.heappush(self._order, (machine.inside, number))
            machine.waiting.append(self._front.popleft())
            self._begin(number)

    def _with_room(self) -> int | None:
        while self._order:
            inside, number = self._order[0]
            if inside != self._machines[number].inside:
                heapq.heappop(self._order)
                continue
            if inside >= AT_ONCE_EACH * self._machine.workers:
                return None
            heapq.heappop(self._order)
            return number
        return None

    def _begin(self, number: int) -> None:
        machine = self._machines[number]
        while machine.idle and machine.waiting:
            machine.idle -= 1
            self.env.process(self._work(number, *machine.waiting.popleft()))

    def _work(self, number: int, came: float, length: float) -> Generator[Any, None, None]:
        noise = max(0.1, self._random.gauss(1.0, self._machine.noise))
        service_s = self._machine.service_s(length) * noise
        self.busy_s += service_s
        yield self.env.timeout(service_s)
        self.done.append((came, self.env.now - came + HTTP_S, length))
        machine = self._machines[number]
        machine.idle += 1
        machine.inside -= 1
        heapq.heappush(self._order, (machine.inside, number))
        self._begin(number)
        self._hand_out()


def simulate(
    load: Load, machine: Machine, machines: int, requests: int = 20_000, seed: int = 1
) -> Simulated:
    """Simulate `requests` requests, from empty queues; the first tenth does not count."""
    arrivals = arrivals_of(load, requests, seed)
    return simulate_arrivals(arrivals, machine, machines, seed, int(_WARM * requests))


def arrivals_of(load: Load, requests: int, seed: int) -> Iterator[Arrival]:
    """Yield `requests` arrivals at random."""
    chance, now = random.Random(seed), 0.0  # noqa: S311 - no secret
    for _ in range(requests):
        now += chance.expovariate(load.rate)
        yield now, chance.choice(load.lengths)


def simulate_arrivals(
    arrivals: Iterable[Arrival], machine: Machine, machines: int, seed: int = 1, skipped: int = 0
) -> Simulated:
    """Simulate the given arrivals; the first `skipped` ones do not count."""
    run = _Run(machine, machines, seed)
    run.env.process(run.arrive(arrivals))
    run.env.run()
    counted = sorted(run.done)[skipped:]
    took = sorted(one for _, one, _ in counted)
    begin = counted[0][0]
    # If they come faster than they are done, the last one to end decides.
    end = max(came + one for came, one, _ in counted)

    def at(quantile: float) -> float:
        return took[min(len(took) - 1, int(quantile * len(took)))]

    return Simulated(
        at(0.5),
        at(0.95),
        at(0.99),
        sum(length for _, _, length in counted) / (end - begin),
        run.busy_s / (machines * machine.workers * run.env.now),
    )
