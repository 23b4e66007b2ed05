"""Requests that are made of bytes, and what comes back."""

import socket

from running import Answer, RunningServer

BOUNDARY = "----boundary"


def form(*parts: tuple[str, str | None, bytes]) -> bytes:
    """Return a multipart body of (name, file name, content)."""
    body = b""
    for name, file_name, content in parts:
        disposition = f'form-data; name="{name}"'
        if file_name is not None:
            disposition += f'; filename="{file_name}"'
        body += f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
        body += content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


FORM = f"multipart/form-data; boundary={BOUNDARY}"


def check_error(answer: Answer, status: int, code: str) -> None:
    """Check that the answer is an error in the API's format."""
    assert answer.status == status, answer.body
    error = answer.json["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert error["code"] == code
    assert error["request_id"] == answer.headers["X-Request-ID"]
    assert "Traceback" not in error["message"]


def said(server: RunningServer, sent: bytes) -> Answer:
    """Return the server's answer to these bytes, before it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(sent)
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    pairs = [header.split(": ", 1) for header in headers]
    return Answer(int(status.split(" ")[1]), dict(pairs), body)


def read_all(sock: socket.socket) -> bytes:
    """Read until the other side closes."""
    sock.settimeout(20)
    received = b""
    while block := sock.recv(65536):
        received += block
    return received


def websocket_handshake(path: str) -> bytes:
    """Return the request of a WebSocket client."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ).encode()
