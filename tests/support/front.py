"""HAProxy and nginx in front of servers, as `deploy/` has them; and clients of theirs."""

import contextlib
import getpass
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hosts import Network
from places import ROOT
from running import ask, free_port, until

DEPLOY = ROOT / "deploy"
SITE = DEPLOY / "nginx" / "modelserver.conf"


def shipped_site(server_port: int) -> str:
    """Return the shipped site for a single server, with that server's port."""
    return SITE.read_text().replace("127.0.0.1:8091", f"127.0.0.1:{server_port}")


@contextlib.contextmanager
def running_nginx(directory: Path, site: str) -> Iterator[int]:
    """Run nginx with that site; give its port on the loopback."""
    assert shutil.which("nginx"), "nginx is not installed (scripts/system-packages test)"
    port = free_port()
    (directory / "site.conf").write_text(site.replace("listen 8080", f"listen 127.0.0.1:{port}"))
    (directory / "nginx.conf").write_text(
        # Files made by pytest belong to its own user, and uploads are buffered there.
        f"user {getpass.getuser()};\ndaemon off;\nworker_processes 1;\npid {directory}/nginx.pid;\n"
        f"error_log {directory}/error.log;\nevents {{}}\n"
        f"http {{ access_log off; client_body_temp_path {directory}/body;\n"
        f"proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f;\n"
        f"uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;\n"
        f"include {directory}/site.conf; }}\n"
    )
    command = ["nginx", "-p", str(directory), "-e", f"{directory}/error.log"]
    command += ["-c", f"{directory}/nginx.conf"]
    subprocess.run([*command, "-t", "-q"], check=True)
    process = subprocess.Popen(command)
    try:

        def listening() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return True
            return False

        until(listening)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@dataclass(frozen=True)
class Balancer:
    """Load balancer in front of the servers: its ports by purpose, and its log."""

    ports: dict[str, int]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['speech']}"

    def servers(self, backend: str = "recordings") -> dict[str, dict[str, str]]:
        """HAProxy's statistics of a backend's servers, by name."""
        body = ask(f"http://127.0.0.1:{self.ports['statistics']}/;csv").body.decode()
        names, *rows = (line.split(",") for line in body.lstrip("# ").splitlines() if line)
        found = [dict(zip(names, row, strict=False)) for row in rows]
        return {
            row["svname"]: row
            for row in found
            if row["pxname"] == backend and row["svname"] not in ("FRONTEND", "BACKEND")
        }

    def status(self, name: str, backend: str = "recordings") -> str:
        """Return the state of one server, as HAProxy reports it."""
        return self.servers(backend)[name]["status"]

    def wait_up(self, *names: str) -> None:
        """Wait until all backends consider these servers able, by their own agents."""

        def up() -> bool:
            return all(
                self.status(name, backend).startswith("UP")
                and self.servers(backend)[name]["agent_status"] == "L7OK"
                for name in names
                for backend in ("recordings", "streams", "jobs")
            )

        until(up, 20, f"{names} are up")


@contextlib.contextmanager
def haproxy(directory: Path, network: Network) -> Iterator[Balancer]:
    """The shipped file as it is, but for addresses, our ports and the number of servers."""
    directory.mkdir(exist_ok=True)
    text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
    ports = {}
    for number, (name, given) in enumerate(
        (
            ("speech", ":8080"),
            ("vosk", ":2700"),
            ("wyoming", ":10300"),
            ("statistics", "127.0.0.1:8404"),
        )
    ):
        ports[name] = 18_000 + os.getpid() % 1000 * 4 + number
        bind = f"    bind {given}\n"
        assert bind in text
        text = text.replace(bind, f"    bind 127.0.0.1:{ports[name]}\n")
    there = {host.name: host for host in network.hosts}
    lines = []
    for line in text.splitlines():
        if (server := re.match(r"    server (\w) 10\.0\.0\.1[123]:(\d+)", line)) is not None:
            if (host := there.get(server[1])) is None:
                continue
            line = f"    server {server[1]} {host.address}:{server[2]}"
        if len(there) < 3:
            line = re.sub(r" \|\| \{ var\(txn\.home\) -m str c \} !\{ srv_is_up\(c\) \}", "", line)
        lines.append(line)
    file = directory / "haproxy.cfg"
    file.write_text("\n".join(lines) + "\n")
    log = directory / "haproxy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(["haproxy", "-f", file], stdout=output, stderr=output)
    try:
        yield _balancer(Balancer(ports, log), process)
    finally:
        process.terminate()
        process.wait(10)


def _balancer(balancer: Balancer, process: subprocess.Popen[bytes]) -> Balancer:
    def listening() -> bool:
        assert process.poll() is None, balancer.log.read_text()
        with contextlib.suppress(OSError):
            return bool(balancer.servers())
        return False

    until(listening, what="HAProxy listens")
    return balancer


@dataclass
class Outcome:
    """Outcome of one request: when it was sent, what came (None: nothing), and how long that took;
    `sent`: bytes of its body."""

    at: float
    status: int | None
    took_s: float
    served_by: str = ""
    document: Any = None
    sent: int = 0


def send(url: str, body: bytes, path: str = "/api/audio/convert", **headers: str) -> Outcome:
    """Send one request, as a client does that does not retry."""
    started = time.monotonic()
    try:
        answer = ask(url + path, body, **headers)
    except OSError as error:
        took_s = time.monotonic() - started
        return Outcome(started, None, took_s, document=repr(error), sent=len(body))
    took_s = time.monotonic() - started
    served_by = answer.headers.get("x-served-by", answer.headers.get("X-Served-By", ""))
    try:
        document = answer.json
    except ValueError:
        document = answer.body
    return Outcome(started, answer.status, took_s, served_by, document, len(body))


@contextlib.contextmanager
def nginx(directory: Path, network: Network) -> Iterator[str]:
    """The shipped file for several servers as it is, but for addresses and our port."""
    directory.mkdir(exist_ok=True)
    site = (DEPLOY / "nginx" / "several.conf").read_text()
    for number, host in enumerate(network.hosts):
        site = site.replace(f"10.0.0.1{1 + number}:", f"{host.address}:")
    with running_nginx(directory, site) as port:
        yield f"http://127.0.0.1:{port}"


class Gateway:
    """A running nginx; `port` is where it listens."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, given)
            response = connection.getresponse()
            document = json.loads(response.read())
            return response.status, dict(response.headers), document
        finally:
            connection.close()


@contextlib.contextmanager
def gateway_of(directory: Path, server_port: int, largest: str = "3m") -> Iterator[Gateway]:
    """The shipped file as it is, but for the two ports and the largest body."""
    site = shipped_site(server_port).replace("1026m", largest)
    with running_nginx(directory, site) as port:
        yield Gateway(port)
