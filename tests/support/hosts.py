"""Several machines on one: network namespaces with a network of their own, made and taken away by
the tests."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from cgroup import cannot
from running import RunningServer, start_server

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

AGENT_PORT, PORT = 8093, 8091


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def end_at_once(pid: int) -> None:
    """Kill a process and all below it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        for process in (first, *first.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@dataclass
class Host:
    """A machine, as far as the network goes."""

    name: str
    address: str
    namespace: str
    link: str
    server: RunningServer | None = None
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def url(self) -> str:
        """URL of its server."""
        return f"http://{self.address}:{PORT}"

    def enter(self) -> None:
        """Move this process there; to be called in a child before exec."""
        descriptor = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY)
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(descriptor)

    def start(self, directory: Path, wait: bool = True, **settings: str) -> RunningServer:
        """Start its server, with an agent, on the ports that `deploy/` expects."""
        directory.mkdir(exist_ok=True)

        given = {
            "MODELSERVER_HOST": self.address,
            "MODELSERVER_PORT": str(PORT),
            "MODELSERVER_ADMIN_AGENT": f"{self.address}:{AGENT_PORT}",
            "MODELSERVER_JOBS_NAME": self.name,
        }
        self.stack = contextlib.ExitStack()
        self.server = self.stack.enter_context(
            start_server(directory, before_exec=self.enter, **given | settings)
        )
        if wait:
            self.server.wait_ready()
        return self.server

    def stop(self) -> None:
        """Politely; returns when it has gone."""
        self.stack.close()
        self.server = None

    def end_at_once(self) -> None:
        """Kill all processes of its server, as when the power fails."""
        assert self.server is not None
        end_at_once(self.server.process.pid)

    def cut(self, off: bool = True) -> None:
        """Cut or restore its network cable."""
        _run("ip", "link", "set", self.link, "down" if off else "up")


@dataclass(frozen=True)
class Network:
    """Network of the machines."""

    hosts: list[Host]

    def __getitem__(self, number: int) -> Host:
        return self.hosts[number]

    def stop(self) -> None:
        """Stop all servers."""
        for host in self.hosts:
            host.cut(off=False)
            host.stop()


@contextlib.contextmanager
def network(count: int) -> Iterator[Network]:
    """`count` machines, named "a", "b", ..., that this one reaches by a switch."""
    tag = f"m{os.getpid() % 10_000:04d}"
    net = os.getpid() % 200 + 20
    bridge, first = f"{tag}br", f"10.213.{net}"
    hosts = [
        Host("abcdefgh"[n], f"{first}.{11 + n}", f"{tag}{'abcdefgh'[n]}", f"{tag}v{n}")
        for n in range(count)
    ]
    try:
        _run("ip", "link", "add", bridge, "type", "bridge")
    except (OSError, subprocess.CalledProcessError) as error:
        cannot(f"no network can be made: {error}")
    try:
        _run("ip", "address", "add", f"{first}.1/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        for host in hosts:
            there = f"{host.link}x"
            _run("ip", "netns", "add", host.namespace)
            _run("ip", "link", "add", host.link, "type", "veth", "peer", "name", there)
            _run("ip", "link", "set", there, "netns", host.namespace)
            _run("ip", "link", "set", host.link, "master", bridge, "up")
            inside = ("ip", "-n", host.namespace)
            _run(*inside, "address", "add", f"{host.address}/24", "dev", there)
            _run(*inside, "link", "set", there, "up")
            _run(*inside, "link", "set", "lo", "up")
            _run(*inside, "route", "add", "default", "via", f"{first}.1")
        network = Network(hosts)
        try:
            yield network
        finally:
            network.stop()
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "del", host.namespace], check=False, capture_output=True)
        _run("ip", "link", "del", bridge)
