"""Waiting times of a queue with many servers, by formula.

Source: Erlang (1917) for the chance of waiting; Allen and Cunneen's approximation for service times
that are not exponential (Allen, Probability, Statistics, and Queueing Theory, 1990).
"""

import math
from statistics import fmean

from modelserver_tools.planning.load import Load
from modelserver_tools.planning.machine import HTTP_S, Machine


def erlang_b(servers: int, load: float) -> float:
    """The chance to find all of them busy, where nobody waits; `load`: in servers."""
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked


def erlang_c(servers: int, load: float) -> float:
    """The chance that one has to wait; 1 where they cannot keep up."""
    if load >= servers:
        return 1.0
    blocked = erlang_b(servers, load)
    return servers * blocked / (servers - load * (1 - blocked))


def latency(load: Load, machine: Machine, machines: int, quantile: float) -> float:
    """Seconds that so many of all requests do not exceed; infinite where the machines cannot keep
    up."""
    services = [machine.service_s(length) for length in load.lengths]
    mean = fmean(services)
    variation = fmean((one - mean) ** 2 for one in services) / mean**2
    variation = (1 + variation) * (1 + machine.noise**2) - 1
    servers, offered = machines * machine.workers, load.rate * mean
    if offered >= servers:
        return math.inf
    waits = erlang_c(servers, offered)
    # With services of any spread those that wait do so as long as this on average.
    mean_wait = (1 + variation) / 2 * mean / (servers - offered)

    def over(seconds: float) -> float:
        """The chance that one takes longer."""
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
    """The most requests a second of which 95 % take no longer than `most_s`; 0 where none does."""

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
    """How few carry it so that 95 % take no longer than `most_s`; None where no number does."""
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
    """How few carry so many on average, where they come and go, and `refused` of them find no
    place."""
    count = max(1, math.ceil(streams / machine.streams))
    while erlang_b(count * machine.streams, streams) > refused:
        count += 1
    return count
