"""Waiting times of a queue with many servers, by formula.

Source: Erlang (1917) for the probability of waiting; Allen and Cunneen's approximation for service
times that are not exponential (Allen, Probability, Statistics, and Queueing Theory, 1990).
"""

import math
from statistics import fmean

from modelserver_tools.planning.load import Load
from modelserver_tools.planning.machine import HTTP_S, Machine


def erlang_b(servers: int, load: float) -> float:
    """Return the probability that all servers are busy, if no request waits; `load`: in servers."""
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked


def erlang_c(servers: int, load: float) -> float:
    """Return the probability that a request has to wait; 1 if the servers cannot keep up."""
    if load >= servers:
        return 1.0
    blocked = erlang_b(servers, load)
    return servers * blocked / (servers - load * (1 - blocked))


def latency(load: Load, machine: Machine, machines: int, quantile: float) -> float:
    """Return the seconds within which the share `quantile` of requests is answered; infinite if the
    machines cannot keep up."""
    services = [machine.service_s(length) for length in load.lengths]
    mean = fmean(services)
    variation = fmean((one - mean) ** 2 for one in services) / mean**2
    variation = (1 + variation) * (1 + machine.noise**2) - 1
    servers, offered = machines * machine.workers, load.rate * mean
    if offered >= servers:
        return math.inf
    waits = erlang_c(servers, offered)
    # Mean wait of the requests that wait, for services of any spread.
    mean_wait = (1 + variation) / 2 * mean / (servers - offered)

    def over(seconds: float) -> float:
        """Return the probability that a request takes longer than `seconds`."""
        chances = (
            1.0 if seconds < one else waits * math.exp(-(seconds - one) / mean_wait)
            for one in services
        )
        return fmean(chances)

    low, high = 0.0, max(services) + 1.0
    while over(high) > 1 - quantile:
        low, high = high, 2 * high
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if over(middle) > 1 - quantile else (low, middle)
    return high + HTTP_S


def rate_within(load: Load, machine: Machine, machines: int, most_s: float) -> float:
    """Return the most requests per second of which 95 % take no longer than `most_s`; 0 if there is
    no such rate."""

    def fits(rate: float) -> bool:
        return latency(Load(rate, load.lengths, ""), machine, machines, 0.95) <= most_s

    mean = fmean(machine.service_s(length) for length in load.lengths)
    low, high = 0.0, machines * machine.workers / mean
    if not fits(1e-9):
        return 0.0
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def machines_for(load: Load, machine: Machine, most_s: float, most: int = 100_000) -> int | None:
    """Return the fewest machines with which 95 % of requests take no longer than `most_s`; None if
    no number suffices."""
    if latency(Load(1e-9, load.lengths, ""), machine, 1, 0.95) > most_s:
        return None

    def enough(count: int) -> bool:
        return latency(load, machine, count, 0.95) <= most_s

    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
        if high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def machines_for_streams(streams: float, machine: Machine, refused: float = 0.01) -> int:
    """Return the fewest machines for `streams` streams on average, which come and go, if the share
    `refused` of them may be refused."""
    count = max(1, math.ceil(streams / machine.streams))
    while erlang_b(count * machine.streams, streams) > refused:
        count += 1
    return count
