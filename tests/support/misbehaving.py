"""A web server that has files, and manners as bad as a test asks for."""

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Manners:
    """Manners of a web server. `files`: by path, or by name alone. `break_at`: the connection ends
    after so many bytes of an answer, `breaks` times."""

    files: dict[str, bytes]
    ranges: bool = True
    etag: str = '"one"'
    break_at: int | None = None
    breaks: int = 10**6
    claims: int | None = None
    """Content-Length, and the most that is sent; but for `overruns`, which sends all there is."""
    overruns: bool = False
    chunked: bool = False
    endless: bool = False
    wrong_range: bool = False
    status: int | None = None
    fails: int = 0
    """Answers of 503 before it behaves."""
    stalls: bool = False
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range of each."""
    before: dict[int, Callable[[], None]] = field(default_factory=dict)
    """Actions before the request of that number is answered; the first is 1."""
    over: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def web_server(manners: Manners) -> Iterator[str]:
    """Run a web server; give its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            _answer(self, manners)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        manners.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(handler: http.server.BaseHTTPRequestHandler, manners: Manners) -> None:
    asked = handler.headers.get("Range")
    # A proxy is asked for a whole URL.
    path = handler.path.rpartition("/")[2]
    manners.requests.append((handler.path, asked))
    handler.close_connection = True
    if (change := manners.before.pop(len(manners.requests), None)) is not None:
        change()
    if manners.fails:
        manners.fails -= 1
        handler.send_error(503)
        return
    if manners.status is not None:
        handler.send_error(manners.status)
        return
    data = manners.files.get(handler.path.removeprefix("/"), manners.files.get(path))
    if data is None:
        handler.send_error(404)
        return
    start = 0
    same = handler.headers.get("If-Range") in (None, manners.etag)
    if asked and manners.ranges and same:
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        handler.send_response(206)
        shown = 0 if manners.wrong_range else start
        handler.send_header("Content-Range", f"bytes {shown}-{len(data) - 1}/{len(data)}")
    else:
        handler.send_response(200)
    if manners.ranges:
        handler.send_header("Accept-Ranges", "bytes")
        handler.send_header("ETag", manners.etag)
    if manners.chunked or manners.endless:
        handler.send_header("Connection", "close")
    else:
        length = len(data) - start
        if manners.claims is not None:
            length = manners.claims
            data = data if manners.overruns else data[: start + length]
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    with contextlib.suppress(OSError):
        if manners.stalls:
            handler.wfile.write(data[start : start + 1000])
            manners.over.wait(60)
            return
        while manners.endless and not manners.over.is_set():
            handler.wfile.write(data)
        if manners.break_at is not None and manners.breaks:
            manners.breaks -= 1
            handler.wfile.write(data[start : start + manners.break_at])
            return
        handler.wfile.write(data[start:])
