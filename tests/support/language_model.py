"""A small server of OpenAI's chat API, which answers as the test says."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LanguageModel:
    """`words` come one after the other, `pause_s` apart; `way` says what goes wrong."""

    def __init__(self) -> None:
        self.words = ["Hello", ", ", "you ", "asked."]
        self.pause_s = 0.0
        self.way = "stream"
        self.asked: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.headers: list[dict[str, str]] = []
        self.left = 0
        """Callers that have gone before the end."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                outer.asked.append(json.loads(self.rfile.read(length)))
                outer.authorizations.append(self.headers.get("Authorization"))
                outer.headers.append({k.lower(): v for k, v in self.headers.items()})
                with contextlib.suppress(OSError):
                    getattr(self, f"_{outer.way}")()

            def _document(self, status: int, document: Any, **headers: str) -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _begin(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()

            def _say(self, delta: dict[str, Any], finish: str | None = None) -> None:
                choice = {"index": 0, "delta": delta, "finish_reason": finish}
                chunk = {"model": "small-talker", "choices": [choice]}
                try:
                    self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                    self.wfile.flush()
                except OSError:
                    outer.left += 1
                    raise

            def _stream(self, finish: str = "stop") -> None:
                self._begin()
                self._say({"role": "assistant", "content": ""})
                for word in outer.words:
                    time.sleep(outer.pause_s)
                    self._say({"content": word})
                self._say({}, finish)
                self.wfile.write(b"data: [DONE]\n\n")

            def _too_long(self) -> None:
                self._stream("length")

            def _filtered(self) -> None:
                self._stream("content_filter")

            def _whole(self) -> None:
                message = {"role": "assistant", "content": "".join(outer.words)}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                self._document(200, {"model": "small-talker", "choices": [choice]})

            def _whole_in_pieces(self) -> None:
                message = {"role": "assistant", "content": "".join(outer.words)}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                body = json.dumps({"model": "small-talker", "choices": [choice]}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                for at in range(0, len(body), len(body) // 7):
                    self.wfile.write(body[at : at + len(body) // 7])
                    self.wfile.flush()
                    time.sleep(0.05)

            def _refuses_in_pieces(self) -> None:
                body = json.dumps({"error": {"message": "no such key", "x": "y" * 100}}).encode()
                self.send_response(401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                for at in range(0, len(body), 30):
                    self.wfile.write(body[at : at + 30])
                    self.wfile.flush()
                    time.sleep(0.05)

            def _thinks(self) -> None:
                self._begin()
                for piece in ("<thi", "nk>Hm", "m, he", "llo?</th", "ink>\n\n", *outer.words):
                    self._say({"content": piece})
                self._say({}, "stop")
                self.wfile.write(b"data: [DONE]\n\n")

            def _thinks_too_long(self) -> None:
                self._begin()
                for piece in ("<think>", "Hm, ", "well</th"):
                    self._say({"content": piece})
                self._say({}, "length")
                self.wfile.write(b"data: [DONE]\n\n")

            def _reasons(self, member: str = "reasoning_content") -> None:
                self._begin()
                for piece in ("Hm, ", "hello?"):
                    self._say({member: piece, "content": None})
                for word in outer.words:
                    self._say({"content": word})
                self._say({}, "stop")
                self.wfile.write(b"data: [DONE]\n\n")

            def _reasons_otherwise(self) -> None:
                self._reasons("reasoning")

            def _null_choices(self) -> None:
                self._begin()
                self.wfile.write(b'data: {"model": "small-talker", "choices": null}\n\n')
                for word in outer.words:
                    self._say({"content": word})
                self._say({}, "stop")
                self.wfile.write(b'data: {"choices": [], "usage": {"total_tokens": 5}}\n\n')
                self.wfile.write(b"data: [DONE]\n\n")

            def _newer(self) -> None:
                if "max_tokens" in outer.asked[-1]:
                    said = (
                        "Unsupported parameter: 'max_tokens' is not supported with this model. "
                        "Use 'max_completion_tokens' instead."
                    )
                    self._document(400, {"error": {"message": said}})
                else:
                    self._stream()

            def _talks_on(self) -> None:
                self._begin()
                for _ in range(2000):
                    self._say({"content": "x" * 8000})
                self._say({}, "stop")

            def _breaks_off(self) -> None:
                self._begin()
                self._say({"content": outer.words[0]})

            def _fails_midway(self) -> None:
                self._begin()
                self._say({"content": outer.words[0]})
                self.wfile.write(b'data: {"error": {"message": "out of tokens"}}\n\n')

            def _silent(self) -> None:
                self._begin()
                time.sleep(3)

            def _refuses(self) -> None:
                self._document(401, {"error": {"message": "no such key"}})

            def _busy(self) -> None:
                self._document(429, {"error": {"message": "slow down"}}, Retry_After="7")

            def _nonsense(self) -> None:
                self._begin()
                self.wfile.write(b"data: nonsense\n\n")

            def _page(self) -> None:
                self.send_response(502)
                self.end_headers()
                self.wfile.write(b"<html>Bad Gateway</html>")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def language_model() -> Iterator[LanguageModel]:
    """Give a language model, which is closed afterwards."""
    model = LanguageModel()
    try:
        yield model
    finally:
        model.close()
