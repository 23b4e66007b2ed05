"""Two servers behind HAProxy: what it adds, who gets how much, how soon a dead one gets nothing.

    sudo python benchmarks/cluster.py [--seconds S] [--audio DIR]

Hosts in network namespaces, the shipped configuration of HAProxy, the embedded model. Host "a" has
one worker, host "b" two, on this machine's processors together: it shows how work is shared out,
and nothing of what two machines would do together.
"""

import argparse
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import utterances
from parts import Balancer, Host, haproxy, network, send, until
from tables import spread, table
from waves import wav


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--audio", type=Path)
    options = parser.parse_args()
    spoken = utterances.utterances(options.audio, 40)
    files = [wav(pcm) for pcm in spoken]
    with tempfile.TemporaryDirectory() as name, network(2) as net:
        directory = Path(name)
        with haproxy(directory / "front", net) as balancer:
            for host, workers in zip(net.hosts, (1, 2), strict=True):
                host.start(
                    directory / host.name,
                    MODELSERVER_WORKERS_COUNT=str(workers),
                    MODELSERVER_WYOMING_URI=f"tcp://{host.address}:10300",
                )
            balancer.wait_up("a", "b")
            short = [wav(pcm[: utterances.RATE]) for pcm in spoken]  # half a second
            added = latency(net[1].url, balancer.url, short)
            print(f"added by HAProxy: {spread([1000 * one for one in added], '.2f')} ms")
            shares = loaded(balancer.url, files, options.seconds)
            rows = [[name, str(shares[name])] for name in sorted(shares)]
            print(table(["host (a: one worker, b: two)", "answered"], rows))
            print(f"known to be dead after {1000 * killed(balancer, net[1], files):.0f} ms")


def latency(direct: str, behind: str, files: list[bytes]) -> list[float]:
    """Differences of the medians, a round each: the same files, in turn one way and the other."""
    differences = []
    for _ in range(5):
        took: dict[str, list[float]] = {direct: [], behind: []}
        for file in files:
            for url in (direct, behind):
                outcome = send(url, file)
                assert outcome.status == 200
                took[url].append(outcome.took_s)
        pairs = zip(took[behind], took[direct], strict=True)
        between = sorted(one - other for one, other in pairs)
        differences.append(between[len(between) // 2])
    return differences


def loaded(url: str, files: list[bytes], seconds: float) -> Counter[str]:
    """By whom so many clients were answered, that always want something."""
    served: Counter[str] = Counter()
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        while time.monotonic() < end:
            outcome = send(url, files[number % len(files)])
            assert outcome.status == 200, outcome
            served[outcome.served_by] += 1

    threads = [threading.Thread(target=client, args=(n,)) for n in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return served


def killed(balancer: Balancer, host: Host, files: list[bytes]) -> float:
    """Until HAProxy knows it, with requests on their way."""
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            send(balancer.url, files[0])

    threads = [threading.Thread(target=client) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    died = time.monotonic()
    host.end_at_once()
    until(lambda: balancer.status(host.name).startswith("DOWN"))
    known_s = time.monotonic() - died
    over.set()
    for thread in threads:
        thread.join()
    return known_s


if __name__ == "__main__":
    main()
