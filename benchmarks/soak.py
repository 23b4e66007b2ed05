"""Soak test: everything at once, for as long as you like. Files of many formats and invalid ones,
clients that hang up, live streams, jobs and questions to a language model; killed workers, reloaded
models, upgrades of the whole server, and a squeeze of the memory every few minutes. It checks that
every request has its answer and that nothing is left behind.

    python benchmarks/soak.py [--minutes 60] [--memory 700MB] [--form prepared|plain]

`--memory` puts the server into a memory cgroup (version 1, as root) of that size.
"""

import argparse
import contextlib
import http.client
import json
import random
import signal
import socket
import statistics
import struct
import threading
import time
from collections import Counter
from typing import Any

import psutil
import utterances
from mixed_clients import MixedClients
from parts import (
    LOSSLESS,
    LOSSY,
    MemoryCgroup,
    RunningServer,
    encoded,
    free_port,
    language_model,
    memory_cgroup,
)
from server import server
from tables import table
from waves import wav

from modelserver.settings.fields import bytes_of

CLIENTS = 3
MB = 1e6
RELOAD_EVERY_S = 50.0
UPGRADES = (1 / 30, 2 / 30, 3 / 30, 29 / 30)
"""Times of the server's upgrades, as shares of the duration: between them it grows old."""
SQUEEZE_EVERY_S, SQUEEZE_S = 120.0, 6.0
ASK_EVERY_S = 15.0
"""Seconds between questions to the admin side, as of a monitoring system."""
ON_PURPOSE = ("not_audio", "memory_pressure", "not_ready")
SETTLED_S = 600.0
"""A supervisor that is younger may still grow."""
SLOPE = 1.0
"""MB an hour that it may grow by then."""


class Tally:
    """Tally of what was sent, and how it ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sent: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    def count(self, kind: str, end: str) -> None:
        with self._lock:
            self.sent[kind] += 1
            self.ended[end] += 1


def refusal(document: dict[str, Any]) -> str:
    """Return the code of a refusal; with its sentence, unless it is caused here on purpose."""
    error = document["error"]
    return error["code"] if error["code"] in ON_PURPOSE else f"{error['code']}: {error['message']}"


def convert(port: int, body: bytes) -> str:
    """Send it whole; how it was answered."""
    # For longer than the server takes for anything.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request("POST", "/api/audio/convert", body, {"Content-Type": "audio/wav"})
        response = connection.getresponse()
        document = json.loads(response.read())
        if response.status == 200:
            assert isinstance(document["text"], str)
            return "transcript"
        return refusal(document)
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {type(error).__name__}"
    finally:
        connection.close()


def question(port: int, body: bytes) -> str:
    """Ask a spoken question to the language model."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request("POST", "/api/ask", body, {"Content-Type": "audio/wav"})
        response = connection.getresponse()
        document = json.loads(response.read())
        if response.status == 200:
            assert document["answer"]["text"]
            return "answer"
        return refusal(document)
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {type(error).__name__}"
    finally:
        connection.close()


def hang_up(port: int, body: bytes, after: int) -> str:
    """Send a part of it, or all of it, and go."""
    head = (
        f"POST /api/audio/convert HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            sock.sendall(head + body[:after])
            time.sleep(random.random() * 0.3)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass  # the server was faster in refusing it
    return "hung up"


def client(
    port: int, clips: list[bytes], formats: list[bytes], long: bytes, until: float, tally: Tally
) -> None:
    while time.monotonic() < until:
        dice = random.random()
        clip = random.choice(clips)
        other = random.choice(formats)
        if dice < 0.40:
            tally.count("short", convert(port, clip))
        elif dice < 0.70:
            tally.count("another format", convert(port, other))
        elif dice < 0.75:
            tally.count("long", convert(port, long))
        elif dice < 0.80:
            tally.count("cut short", convert(port, clip[: random.randrange(44, len(clip))]))
        elif dice < 0.83:
            tally.count("no audio", convert(port, random.randbytes(random.randrange(1, 5000))))
        elif dice < 0.88:
            tally.count("question", question(port, clip))
        else:
            body = random.choice((clip, long))
            tally.count("hung up", hang_up(port, body, random.randrange(len(body))))


def killer(running: RunningServer, until: float, killed: Counter[str]) -> None:
    while time.monotonic() < until:
        time.sleep(random.uniform(3.0, 15.0))
        try:
            victim = random.choice(running.workers())
            number = random.choice((signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM))
            victim.send_signal(number)
            killed[number.name] += 1
        except (psutil.NoSuchProcess, IndexError):
            pass


def reloader(running: RunningServer, until: float, done: Counter[str]) -> None:
    while time.monotonic() + RELOAD_EVERY_S < until:
        time.sleep(RELOAD_EVERY_S)
        status, _ = running.ask_admin("POST", "/admin/reload")
        done[f"reload {status}"] += 1


def upgrader(
    running: RunningServer, minutes: float, room: threading.Lock, done: Counter[str]
) -> None:
    """Start new processes in place of the old one, while all other load continues except the
    squeezes: with less memory than it was given, a server rightly refuses to start another one."""
    began = time.monotonic()
    for share in UPGRADES:
        time.sleep(max(0.0, began + share * minutes * 60 - time.monotonic()))
        with room:
            ended = running.upgrade()
        done[f"upgrades {'done' if ended.returncode == 0 else ended.stderr}"] += 1


class Ages:
    """The supervisors' memory, second by second, each by itself."""

    def __init__(self, running: RunningServer) -> None:
        self._running = running
        self._pid, self._asked_at = running.pid, -ASK_EVERY_S
        self.of: dict[int, list[float]] = {}

    def look(self) -> None:
        """Once. Who it is, is asked for more seldom: the answer is the whole health document, and
        what is watched should be the clients' doing."""
        if (now := time.monotonic()) - self._asked_at > ASK_EVERY_S:
            self._asked_at = now
            # In the moment of an upgrade no process may answer.
            with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):
                self._pid = int(self._running.health()["pid"])
        with contextlib.suppress(psutil.NoSuchProcess):
            rss = psutil.Process(self._pid).memory_info().rss / MB
            self.of.setdefault(self._pid, []).append(rss)

    def oldest(self) -> list[float]:
        """Memory of the process that lived longest, MB."""
        return max(self.of.values(), key=len)


def squeezer(
    group: MemoryCgroup, limit: int, until: float, room: threading.Lock, done: Counter[str]
) -> None:
    """Lower the limit to a little more than what is in use, and raise it again."""
    while time.monotonic() + SQUEEZE_EVERY_S < until:
        time.sleep(SQUEEZE_EVERY_S)
        with room:
            done["squeezes"] += 1
            with contextlib.suppress(AssertionError):  # what is in use cannot be taken away
                group.limit(int(limit * 0.75))
            time.sleep(SQUEEZE_S)
            group.limit(limit)


def other_formats(clip: bytes) -> list[bytes]:
    """Return the same speech in formats that people send."""
    return [encoded(clip[44:], kind) for kind in (*LOSSLESS, *LOSSY) if kind != "amr"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--memory", type=bytes_of, default=bytes_of("700MB"))
    parser.add_argument("--form", choices=("prepared", "plain"), default="prepared")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random.seed(options.seed)
    clips = [wav(pcm) for pcm in utterances.utterances(None, 24)]
    long = wav(b"".join(utterances.utterances(None, 24)))
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(memory_cgroup(options.memory))
        talker = stack.enter_context(language_model())
        running = stack.enter_context(
            server(
                options.form,
                before_exec=group.enter,
                MODELSERVER_PORT=str(free_port()),
                MODELSERVER_ASSISTANT_URL=talker.url,
                MODELSERVER_ASSISTANT_MODEL="talker",
                MODELSERVER_ASSISTANT_PER_MINUTE="0",
            )
        )
        stack.callback(end, running)
        soak(running, clips, long, options.minutes, group, options.memory)


def soak(
    running: RunningServer,
    clips: list[bytes],
    long: bytes,
    minutes: float,
    group: MemoryCgroup,
    limit: int,
) -> None:
    for clip in clips[:4]:
        convert(running.port, clip)
    before = left_over(running)
    until = time.monotonic() + minutes * 60
    tally, killed, ages, room = Tally(), Counter[str](), Ages(running), threading.Lock()
    arguments = (running.port, clips, other_formats(clips[0]), long, until, tally)
    threads = [threading.Thread(target=client, args=arguments) for _ in range(CLIENTS)]
    threads.append(threading.Thread(target=killer, args=(running, until, killed)))
    threads.append(threading.Thread(target=reloader, args=(running, until, killed)))
    threads.append(threading.Thread(target=squeezer, args=(group, limit, until, room, killed)))
    threads.append(threading.Thread(target=upgrader, args=(running, minutes, room, killed)))
    with MixedClients(running.url, clips[1], kept=1, fresh=1, streams=1, jobs=1) as others:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            ages.look()
            time.sleep(1)
    rss = ages.oldest()
    settled = int(min(SETTLED_S, len(rss) / 2))
    slope = statistics.linear_regression(range(len(rss) - settled), rss[settled:]).slope * 3600
    deadline = time.monotonic() + 60
    while running.health()["queue"]["admitted"] and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    after, health = left_over(running), running.health()
    exits = running.events("worker.exited", "fork_server.exited")
    deaths = Counter(str(event["cause"]) for event in exits)
    quarter = max(1, len(rss) // 4)
    kills = group.oom_kills()
    answered = sum(n for end, n in tally.ended.items() if not end.startswith("no answer"))
    print(table(["requests", "count"], [[kind, str(n)] for kind, n in tally.sent.most_common()]))
    print(table(["ended", "count"], [[end, str(n)] for end, n in tally.ended.most_common()]))
    rows = [
        ["sent / with their answer, or hung up", f"{sum(tally.sent.values())} / {answered}"],
        ["streams, jobs and kept connections", json.dumps(others.account.done)],
        ["of those refused or failed", str(len(others.account.failed))],
        ["what was done to it", ", ".join(f"{name} {n}" for name, n in sorted(killed.items()))],
        ["deaths by cause", json.dumps(deaths)],
        ["OOM kills by the kernel's count", str(kills)],
        [
            "supervisor RSS, first / last quarter, MB",
            f"{statistics.median(rss[:quarter]):.0f} / {statistics.median(rss[-quarter:]):.0f}",
        ],
        ["the same, each five minutes", " ".join(f"{five:.1f}" for five in fives(rss))],
        ["its slope after it has settled, MB an hour", f"{slope:+.2f}"],
        ["descriptors before / after", f"{before['fds']} / {after['fds']}"],
        ["processes before / after", f"{before['processes']} / {after['processes']}"],
        ["spools left", str(health["spools"]["open"])],
    ]
    print(table(["soak", f"{minutes:g} min"], rows))
    assert answered == sum(tally.sent.values()), tally.ended
    for failed, count in Counter(f[:120] for f in others.account.failed).most_common(20):
        print(count, failed)
    assert all(
        ": 503 " in failed or "closed with 1013" in failed for failed in others.account.failed
    )
    assert kills == 0
    first, last = statistics.median(rss[:quarter]), statistics.median(rss[-quarter:])
    assert last <= 1.1 * first + 2, (first, last)
    if minutes * 60 > SETTLED_S * 3:  # of a shorter one it says nothing
        assert slope < SLOPE, slope
    assert killed["upgrades done"] == len(UPGRADES), killed
    assert health["spools"]["open"] == 0
    assert after["fds"] <= before["fds"] + 4, (before, after)
    assert after["processes"] == before["processes"]


def fives(each_second: list[float]) -> list[float]:
    """Medians of five minutes each."""
    parts = (each_second[begin : begin + 300] for begin in range(0, len(each_second), 300))
    return [statistics.median(part) for part in parts]


def left_over(running: RunningServer) -> dict[str, int]:
    supervisor = psutil.Process(running.health()["pid"])
    return {"fds": supervisor.num_fds(), "processes": len(supervisor.children(recursive=True))}


def end(running: RunningServer) -> None:
    """End the last successor, which is not a child of ours."""
    with contextlib.suppress(OSError, AssertionError, psutil.NoSuchProcess):
        last = psutil.Process(running.health()["pid"])
        last.terminate()
        last.wait(40)


if __name__ == "__main__":
    main()
