"""Several servers behind HAProxy: rolled over, killed, cut off, slow; real hosts, as far as the
network goes."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from front import Balancer, Outcome, haproxy, nginx, send
from hosts import AGENT_PORT, Host, Network, network
from running import RunningServer, ask, until
from wavs import wav_file
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

import models
from models.vosk.prepared import PreparedModel

pytestmark = pytest.mark.many

MOST_ON_IT = 4
"""Requests that a machine of one worker has or has just been sent: two, and two that come when
those have gone."""
BUFFER = 131_072
"""Bytes of a body that HAProxy takes before it asks a server."""
KNOWN_DEAD_S = 5.0
"""Seconds after which a machine is known to be dead: HAProxy asks each second, waits two for the
answer, and believes the second failure."""


class Cluster:
    """Three machines, and HAProxy in front of them."""

    def __init__(
        self, net: Network, balancer: Balancer, directory: Path, settings: dict[str, str]
    ) -> None:
        self.net, self.balancer = net, balancer
        self._directory, self._settings = directory, settings

    def start(self, host: Host, **more: str) -> RunningServer:
        wyoming = {"MODELSERVER_WYOMING_URI": f"tcp://{host.address}:10300"}
        given = self._settings | wyoming | more
        return host.start(self._directory / host.name, **given)

    @contextlib.contextmanager
    def odd(self, host: Host, *, wait: bool = True, **more: str) -> Iterator[RunningServer]:
        """Run its server with other settings."""
        host.stop()
        given = self._settings | more
        try:
            yield host.start(self._directory / host.name, wait=wait, **given)
        finally:
            host.stop()

    def whole(self) -> None:
        """Restore all machines and servers."""
        for host in self.net.hosts:
            host.cut(off=False)
            if host.server is None or host.server.process.poll() is not None:
                host.stop()
                self.start(host)
        self.balancer.wait_up(*(host.name for host in self.net.hosts))


@pytest.fixture(scope="module")
def _cluster(
    tmp_path_factory: pytest.TempPathFactory,
    small: models.ModelLocation,
    prepared_small: PreparedModel,
) -> Iterator[Cluster]:
    settings = {
        "MODELSERVER_MODEL": str(small.directory),
        "MODELSERVER_PREPARED_DIR": str(prepared_small.directory.parent),
        "MODELSERVER_WORKERS_COUNT": "1",
        "MODELSERVER_NOTICE_S": "2",
    }
    directory = tmp_path_factory.mktemp("cluster")
    with network(3) as net, haproxy(directory / "front", net) as balancer:
        yield Cluster(net, balancer, directory, settings)


@pytest.fixture
def cluster(_cluster: Cluster) -> Cluster:
    _cluster.whole()
    return _cluster


def agent_says(host: Host, question: bytes = b"") -> str:
    """Return the agent's answer; nothing while it does not listen."""
    answer = b""
    with (
        contextlib.suppress(ConnectionRefusedError),
        socket.create_connection((host.address, AGENT_PORT), 5) as sock,
    ):
        sock.sendall(question)
        while data := sock.recv(1000):
            answer += data
        assert answer.endswith(b"\n")
    return answer.decode().strip()


def admin(host: Host, method: str, path: str) -> Any:
    assert host.server is not None
    status, body = host.server.ask_admin(method, path)
    assert status < 300, body
    return json.loads(body)


class Load:
    """Clients that send one recording after the other, and do not try again."""

    def __init__(self, url: str, bodies: list[bytes], clients: int = 6) -> None:
        self.outcomes: list[Outcome] = []
        self._url, self._bodies = url, bodies
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _send(self, number: int) -> None:
        while not self._over.is_set():
            self.outcomes.append(send(self._url, self._bodies[number % len(self._bodies)]))

    def failed(self) -> list[Outcome]:
        return [one for one in self.outcomes if one.status != 200]

    def served_by(self, since: float = 0.0) -> Counter[str]:
        return Counter(one.served_by for one in self.outcomes if one.at >= since)


class Speaker:
    """A live stream that is begun again whenever it is closed, as a client's is."""

    def __init__(self, url: str, pcm: bytes) -> None:
        self.url, self._pcm = url.replace("http", "ws", 1) + "/ws", pcm[: 2 * 32_000]
        self.finals = 0
        self.closes: list[int] = []
        self.failed: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._speak)

    def __enter__(self) -> "Speaker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _speak(self) -> None:
        while not self._over.is_set():
            try:
                with connect(self.url, open_timeout=10) as client:
                    client.send('{"config": {"sample_rate": 16000}}')
                    self._say(client)
            except ConnectionClosed as closed:
                self.closes.append(closed.rcvd.code if closed.rcvd else 1006)
            except (OSError, TimeoutError, WebSocketException) as error:
                self.failed.append(repr(error))
                time.sleep(0.2)

    def _say(self, client: Any) -> None:
        for at in range(0, len(self._pcm), 6400):
            client.send(self._pcm[at : at + 6400])
            self._heard(client.recv(10))
            time.sleep(0.1)
        client.send('{"eof": 1}')
        self._heard(client.recv(10))

    def _heard(self, message: str | bytes) -> None:
        self.finals += "text" in json.loads(message)


@pytest.fixture(scope="module")
def bodies(clips: list[bytes]) -> list[bytes]:
    """Return some bodies that fit into the balancer's buffer, and one that does not."""
    short = [wav_file(clip[: 2 * 16_000]) for clip in clips[:3]]
    return [*short, wav_file(b"".join(clips)[: 2 * 16_000 * 20])]


# --- answers of the agent -------------------------------------------------------------------------


def test_the_agent_says_how_much_can_be_taken(cluster: Cluster) -> None:
    host = cluster.net[0]
    word, ready, percent, most = agent_says(host).split()
    assert (word, ready, most) == ("up", "ready", "maxconn:2")
    assert 1 <= int(percent.removesuffix("%")) <= 256
    streams = agent_says(host, b"streams\n").split()
    assert streams[:3] == [word, ready, percent]
    assert int(streams[3].removeprefix("maxconn:")) >= 1
    assert agent_says(host, b"jobs\n").split() == [word, ready, percent]
    assert agent_says(host, b"x" * 5000).startswith("up ready")


def test_an_operators_drain_is_told_before_it_begins(cluster: Cluster, bodies: list[bytes]) -> None:
    host = cluster.net[0]
    assert host.server is not None
    assert admin(host, "POST", "/admin/drain")["notice_s"] == 2
    assert agent_says(host).startswith("maint #")
    assert ask(host.server.url + "/readyz").status == 503
    assert host.server.convert(bodies[0]).status == 200  # it is still on its way here
    until(lambda: cluster.balancer.status(host.name) == "MAINT")
    until(lambda: host.server is not None and host.server.convert(bodies[0]).status == 503)
    admin(host, "POST", "/admin/resume")
    assert agent_says(host).startswith("up ready")
    cluster.balancer.wait_up(host.name)


def test_a_server_whose_workers_do_not_live_is_down(cluster: Cluster, tmp_path: Path) -> None:
    host = cluster.net[0]
    with cluster.odd(host, wait=False, MODELSERVER_MODEL=str(tmp_path / "nowhere")):
        until(lambda: agent_says(host).startswith("ready down #the model cannot be loaded"))
        until(lambda: cluster.balancer.status(host.name).startswith("DOWN"))


# --- through the balancer -------------------------------------------------------------------------


def test_requests_streams_jobs_and_home_assistant_go_through(
    cluster: Cluster, bodies: list[bytes], clips: list[bytes]
) -> None:
    with Load(cluster.balancer.url, bodies) as load:
        until(lambda: len(load.outcomes) > 30, 30)
    assert not load.failed()
    assert set(load.served_by()) == {"a", "b", "c"}
    with Speaker(cluster.balancer.url, clips[0]) as speaker:
        until(lambda: speaker.finals)
    with socket.create_connection(("127.0.0.1", cluster.balancer.ports["wyoming"]), 5) as sock:
        sock.sendall(b'{"type": "describe"}\n')
        assert b'"info"' in sock.recv(1000)
    with connect(f"ws://127.0.0.1:{cluster.balancer.ports['vosk']}/") as client:
        client.send('{"eof": 1}')
        assert json.loads(client.recv())["text"] == ""


def test_what_is_not_for_the_world_is_not_there(cluster: Cluster) -> None:
    for path in ("/admin/health", "/admin", "/metrics"):
        answer = ask(cluster.balancer.url + path, X_Request_ID="mine")
        assert answer.status == 404
        assert answer.json["error"] == {
            "code": "not_found",
            "message": "there is nothing at this path",
            "request_id": "mine",
        }


def test_who_is_refused_by_one_is_taken_by_another(cluster: Cluster, bodies: list[bytes]) -> None:
    host = cluster.net[0]
    with cluster.odd(host, MODELSERVER_NOTICE_S="0") as server:

        def refused() -> int:
            done = server.events("request.done")
            return sum(e["path"] == "/api/audio/convert" and e["status"] == 503 for e in done)

        before = refused()
        # One at a time: where all others are full, HAProxy asks the one that is idle once more.
        with Load(cluster.balancer.url, bodies[:3], clients=1) as load:
            for _ in range(20):
                cluster.balancer.wait_up(host.name)
                admin(host, "POST", "/admin/drain")  # HAProxy notices a moment later
                until(lambda: cluster.balancer.status(host.name) in ("MAINT", "DRAIN"))
                admin(host, "POST", "/admin/resume")
                if refused() > before:
                    break
        assert refused() > before
    assert not load.failed()


def test_a_job_stays_where_it_is(cluster: Cluster, bodies: list[bytes]) -> None:
    url = cluster.balancer.url
    ids = [ask(f"{url}/v1/jobs", bodies[0]).json["id"] for _ in range(6)]
    homes = {job_id.rpartition("-")[0] for job_id in ids}
    assert homes == {"a", "b", "c"}

    def done(job_id: str) -> bool:
        document = ask(f"{url}/v1/jobs/{job_id}").json
        assert document.get("id") == job_id, document
        return bool(document["state"] == "done")

    for job_id in ids:
        until(lambda job_id=job_id: done(job_id))
    (lost,) = (job_id for job_id in ids[:3] if job_id.startswith("b-"))
    cluster.net[1].stop()
    until(lambda: not cluster.balancer.status("b", "jobs").startswith("UP"))
    answer = ask(f"{url}/v1/jobs/{lost}")
    assert answer.status == 503
    assert answer.json["error"]["code"] == "not_ready"
    cluster.whole()
    assert done(lost)


# --- machines that fail ---------------------------------------------------------------------------


def test_all_are_rolled_over_and_nobody_notices(
    cluster: Cluster, bodies: list[bytes], clips: list[bytes]
) -> None:
    url = cluster.balancer.url
    with Load(url, bodies) as load, Speaker(url, clips[0]) as one, Speaker(url, clips[1]) as two:
        until(lambda: len(load.outcomes) > 10, 30)
        for host in cluster.net.hosts:
            pid = host.server.process.pid if host.server else 0
            host.stop()
            server = cluster.start(host)
            assert server.process.pid != pid
            cluster.balancer.wait_up(host.name)
            since = time.monotonic()
            until(lambda host=host, since=since: load.served_by(since)[host.name] > 2, 20)
    assert not load.failed()
    assert len(load.outcomes) > 50
    for speaker in (one, two):
        assert not speaker.failed
        assert set(speaker.closes) <= {1001}  # it ends, and reports that
        assert speaker.finals


def _died_with_it(load: Load, name: str, at: float) -> list[Outcome]:
    """Return requests that may be lost: they were on the machine, or on their way to it, when it
    died."""
    lost = load.failed()
    for one in lost:
        assert one.at < at + KNOWN_DEAD_S
        if one.status is None:
            # HAProxy answered while it was still sending: it notices that the connection has ended.
            assert one.sent > BUFFER, one
            continue
        assert one.served_by == name, one
        assert one.status in (502, 503, 504), one
        assert one.document["error"]["code"] in ("server_lost", "not_ready", "deadline_exceeded")
        assert one.document["error"]["request_id"]
    return lost


def test_of_a_machine_that_dies_only_what_was_on_it_is_lost(
    cluster: Cluster, bodies: list[bytes], clips: list[bytes]
) -> None:
    host = cluster.net[1]
    assert host.server is not None
    url = cluster.balancer.url
    with Load(url, bodies) as load, contextlib.ExitStack() as stack:
        speakers = [stack.enter_context(Speaker(url, clip)) for clip in clips[:3]]
        until(lambda: load.served_by()["b"] > 3, 30)
        until(lambda: all(speaker.finals for speaker in speakers), 30)
        died = time.monotonic()
        host.end_at_once()
        before = [speaker.finals for speaker in speakers]
        until(lambda: cluster.balancer.status("b").startswith("DOWN"), KNOWN_DEAD_S)
        known_s = time.monotonic() - died
        later = time.monotonic()
        until(lambda: sum(load.served_by(later).values()) > 20, 30)
        until(lambda: all(s.finals > n + 1 for s, n in zip(speakers, before, strict=True)), 30)
    assert load.served_by(later)["b"] == 0
    lost = _died_with_it(load, "b", died)
    assert len(lost) <= MOST_ON_IT
    assert all(one.at < died + 0.5 for one in lost)  # a refused connection is noticed at once
    assert known_s < KNOWN_DEAD_S


def test_a_machine_that_is_cut_off_is_done_without_until_it_is_back(
    cluster: Cluster, bodies: list[bytes]
) -> None:
    host = cluster.net[2]
    with Load(cluster.balancer.url, bodies) as load:
        until(lambda: load.served_by()["c"] > 3, 30)
        cut = time.monotonic()
        host.cut()
        until(lambda: cluster.balancer.status("c").startswith("DOWN"), 2 * KNOWN_DEAD_S)
        later = time.monotonic()
        until(lambda: sum(load.served_by(later).values()) > 20, 30)
        assert load.served_by(later)["c"] == 0
        host.cut(off=False)
        cluster.balancer.wait_up("c")
        back = time.monotonic()
        until(lambda: load.served_by(back)["c"] > 3, 30)
    lost = _died_with_it(load, "c", cut)
    assert len(lost) <= MOST_ON_IT
    assert all(one.took_s < 2 * KNOWN_DEAD_S for one in lost)  # no request hangs for minutes


@contextlib.contextmanager
def slowed(pids: list[int], share: float) -> Iterator[None]:
    """Let processes run for `share` of the time, as on a processor that others use."""
    over = threading.Event()

    def hold() -> None:
        while not over.is_set():
            for number, seconds in (
                (signal.SIGSTOP, 0.05 * (1 - share)),
                (signal.SIGCONT, 0.05 * share),
            ):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_a_slow_machine_gets_less_and_nothing_is_lost(
    cluster: Cluster, bodies: list[bytes]
) -> None:
    host = cluster.net[0]
    assert host.server is not None
    pids = [worker["pid"] for worker in host.server.health()["workers"]]
    with slowed(pids, 0.15), Load(cluster.balancer.url, bodies[3:], clients=9) as load:
        until(lambda: len(load.outcomes) > 60, 60)
    assert not load.failed()
    served = load.served_by()
    assert served["a"] < 0.6 * min(served["b"], served["c"])
    assert served["a"] > 0


# --- nginx in front -------------------------------------------------------------------------------


def test_behind_nginx_nobody_notices_that_a_machine_ends(
    cluster: Cluster, bodies: list[bytes], clips: list[bytes], tmp_path: Path
) -> None:
    with nginx(tmp_path / "nginx", cluster.net) as url:
        job_id = ask(f"{url}/v1/jobs", bodies[0]).json["id"]
        with Load(url, bodies) as load, Speaker(url, clips[0]) as speaker:
            until(lambda: len(load.outcomes) > 10 and speaker.finals, 30)
            for end in (cluster.net[0].stop, cluster.net[1].end_at_once):
                end()
                since = time.monotonic()
                until(lambda since=since: sum(load.served_by(since).values()) > 10, 30)
                cluster.whole()
            before = speaker.finals
            until(lambda: speaker.finals > before, 20)
        assert not load.failed()
        until(lambda: ask(f"{url}/v1/jobs/{job_id}").json["state"] == "done")
        answer = ask(f"{url}/admin/health", X_Request_ID="mine")
        assert (answer.status, answer.json["error"]["request_id"]) == (404, "mine")
