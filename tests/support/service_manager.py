"""The receiving end of sd_notify(3)."""

import socket
import time
from pathlib import Path


class Systemd:
    """The receiving end. Every message so far, with the time it came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.heard: list[tuple[float, str, str]] = []

    def listen(self) -> list[tuple[float, str, str]]:
        while True:
            try:
                message = self._socket.recv(65536).decode()
            except BlockingIOError:
                return self.heard
            for line in message.splitlines():
                name, _, value = line.partition("=")
                self.heard.append((time.monotonic(), name, value))

    def count(self, name: str) -> int:
        return sum(heard == name for _, heard, _ in self.listen())

    def last(self, name: str) -> str:
        return next((value for _, heard, value in reversed(self.listen()) if heard == name), "")

    def close(self) -> None:
        self._socket.close()
