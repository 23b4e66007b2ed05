"""A pulse: `/healthz` asked again and again beside something else. Its longest answer says for how
long the server's event loop stood still."""

import http.client
import threading
import time
from types import TracebackType

EVERY_S = 0.005
MOST_S = 0.1
"""No answer may take longer, whatever is sent beside it."""


class Pulse:
    """Use as `with`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.times_s: list[float] = []

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def worst_s(self) -> float:
        """The longest that an answer took."""
        return max(self.times_s, default=0.0)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        while not self._over.wait(EVERY_S):
            began = time.perf_counter()
            try:
                connection.request("GET", "/healthz")
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection.close()
            self.times_s.append(time.perf_counter() - began)
        connection.close()
