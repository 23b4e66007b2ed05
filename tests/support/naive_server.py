"""A server of the old shape: a model in each process, a new recogniser for each request, no budget.

    python naive_server.py MODEL PROCESSES

Prints its port when every process has loaded. A killed process is not replaced.
"""

import io
import json
import os
import socket
import sys
import wave
from http.server import BaseHTTPRequestHandler, HTTPServer


def serve(model_path: str, sock: socket.socket, ready: int) -> None:
    import vosk

    vosk.SetLogLevel(-1)
    model = vosk.Model(model_path)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with wave.open(io.BytesIO(body)) as audio:
                pcm = audio.readframes(audio.getnframes())
            recognizer = vosk.KaldiRecognizer(model, 16_000)
            recognizer.AcceptWaveform(pcm)
            answer = recognizer.FinalResult().encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    server = HTTPServer(sock.getsockname(), Handler, bind_and_activate=False)
    server.socket = sock
    os.write(ready, b".")
    os.close(ready)  # the waiter for a killed one reads end-of-file
    server.serve_forever()


def main() -> None:
    model, processes = sys.argv[1], int(sys.argv[2])
    sock = socket.create_server(("127.0.0.1", 0))
    read, ready = os.pipe()
    children = []
    for _ in range(processes):
        pid = os.fork()
        if pid == 0:
            serve(model, sock, ready)
        children.append(pid)
    os.close(ready)
    while processes > 0 and (loaded := os.read(read, processes)):
        processes -= len(loaded)
    print(json.dumps({"port": sock.getsockname()[1], "pids": children}), flush=True)
    for pid in children:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
