"""Ten thousand files and bodies that should not be: each is answered 200 or 4xx in time, no worker
ends, and nothing has grown.

    python benchmarks/hostile.py [--count 10000] [--seed 1] [--model DIRECTORY]

Mutations of one file of each container and codec, sizes that lie, files cut anywhere, headers,
forms, JSON and codings; and bodies that are made to hold the event loop, with a pulse on /healthz
beside them. The suite runs 500 of the first, and all of the second.
"""

import argparse
import base64
import contextlib
import gzip
import http.client
import json
import random
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import wavs
from encoded import LOSSLESS, LOSSY, encoded
from pulse import MOST_S, Pulse
from running import RunningServer, start_server

from models.clips import clips_for, decode_clip

CONVERT = "/api/audio/convert"
DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """Attempt with one request: a description, and what is sent."""

    what: str
    body: bytes
    headers: dict[str, str]
    query: str = ""


@dataclass(slots=True)
class Outcome:
    """Outcome of all attempts. Bytes and seconds."""

    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    worst_pulse_s: float = 0.0
    worker_exits: int = 0
    grown: dict[str, int] = field(default_factory=dict)


def attempts(count: int, seed: int) -> Iterator[Attempt]:
    """Yield `count` attempts, always the same for a seed."""
    generator = random.Random(seed)
    pcm = decode_clip(clips_for("ko")[2], 16_000)[:64_000]
    good = {kind: encoded(pcm, kind) for kind in (*LOSSLESS, *LOSSY)}
    makers: list[Callable[[random.Random, dict[str, bytes]], Attempt]] = [
        _mutated, _mutated, _mutated, _cut, _cut, _lying_wav, _lying_wav, _spliced,
        _form, _form, _json, _coded, _parameters, _noise,
    ]  # fmt: skip
    for _ in range(count):
        yield generator.choice(makers)(generator, good)


def _mutated(generator: random.Random, good: dict[str, bytes]) -> Attempt:
    kind = generator.choice(sorted(good))
    data = bytearray(good[kind])
    near = generator.choice((64, 512, len(data)))
    for _ in range(generator.choice((1, 2, 5, 20, 200))):
        at = generator.randrange(min(near, len(data)))
        match generator.randrange(4):
            case 0:
                data[at] = generator.randrange(256)
            case 1:
                data[at] ^= 1 << generator.randrange(8)
            case 2:
                size = generator.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 1 << 24))
                data[at : at + 4] = struct.pack(generator.choice("<>") + "I", size)
            case _:
                del data[at : at + generator.randrange(1, 9)]
                data = data or bytearray(b"x")
    return Attempt(f"mutated {kind}", bytes(data), _type(generator))


def _cut(generator: random.Random, good: dict[str, bytes]) -> Attempt:
    kind = generator.choice(sorted(good))
    data = good[kind]
    at = generator.choice((generator.randrange(len(data)), generator.randrange(200)))
    return Attempt(
        f"cut {kind}", data[:at] if generator.random() < 0.7 else data[at:], _type(generator)
    )


def _lying_wav(generator: random.Random, good: dict[str, bytes]) -> Attempt:
    bits = generator.choice((0, 1, 4, 8, 12, 16, 20, 24, 32, 64, 65535))
    channels = generator.choice((0, 1, 2, 3, 8, 9, 255, 65535))
    rate = generator.choice((0, 1, 8_000, 16_000, 44_100, 192_000, 2**31, 2**32 - 1))
    block = generator.choice((0, 1, 2, 4, 8, 65535, channels * bits // 8 % 65536))
    tag = generator.choice((0, 1, 2, 3, 6, 7, 0x11, 0x31, 0x50, 0x55, 0xFF, 0xFFFE, 0xFFFF))
    fmt = struct.pack("<HHIIHH", tag, channels, rate, generator.randrange(2**32), block, bits)
    fmt += generator.randbytes(generator.choice((0, 0, 2, 24, 1000)))
    size = generator.choice(
        (0, 1, 64_000, 2_000_000_000, 2**31, 2**32 - 2, generator.randrange(2**32))
    )
    before = generator.choice(
        (b"", wavs.chunk(b"LIST", b"odd"), b"LIST\5\0\0\0INFOx", b"JUNK\xff\xff\xff\xff")
    )
    body = b"fmt " + struct.pack("<I", generator.choice((len(fmt), 0, 2**32 - 1, 16))) + fmt
    body = before + body + b"data" + struct.pack("<I", size) + good["wav"][44:]
    form = generator.choice((b"RIFF", b"RF64", b"BW64", b"RIFX", b"riff"))
    whole = form + struct.pack("<I", generator.choice((len(body), 0, 2**32 - 1))) + b"WAVE" + body
    return Attempt("lying wav", whole, _type(generator))


def _spliced(generator: random.Random, good: dict[str, bytes]) -> Attempt:
    one, other = (good[kind] for kind in generator.sample(sorted(good), 2))
    at = generator.randrange(len(one))
    return Attempt("spliced", one[:at] + other[generator.randrange(len(other)) :], _type(generator))


def _form(generator: random.Random, good: dict[str, bytes]) -> Attempt:
    boundary = generator.choice((b"b", b"-" * 40 + b"x", generator.randbytes(8).hex().encode()))
    said = boundary if generator.random() < 0.8 else b"other"
    body = b""
    for _ in range(generator.randrange(1, 6)):
        head = generator.choice(
            (
                b'Content-Disposition: form-data; name="file"; filename="a.wav"',
                b'Content-Disposition: form-data; name="file"; filename="' + b"n" * 9000 + b'"',
                b'Content-Disposition: form-data; name="words"',
                b"Content-Disposition: form-data; name="
                + generator.randbytes(20).replace(b"\r", b"").replace(b"\n", b""),
                b"no colon at all",
                b"\r\n".join(b"X-%d: y" % n for n in range(200)),
                (
                    b"Content-Transfer-Encoding: base64\r\n"
                    b"Content-Disposition: form-data; name=file; filename=x"
                ),
                b"",
            )
        )
        content = generator.choice(
            (good["wav"], good["flac"], b"", b"true", b"x" * 70_000, generator.randbytes(500))
        )
        body += b"--" + boundary + b"\r\n" + head + b"\r\n\r\n" + content + b"\r\n"
    body += generator.choice((b"--" + boundary + b"--\r\n", b"--" + boundary, b"", b"--"))
    kind = generator.choice(("multipart/form-data", "Multipart/Form-Data", "multipart/mixed"))
    separator = generator.choice(("; boundary=", ";boundary=", '; BOUNDARY="'))
    end = '"' if separator.endswith('"') else ""
    return Attempt("form", body, {"Content-Type": kind + separator + said.decode() + end})


def _json(generator: random.Random, good: dict[str, bytes]) -> Attempt:
    audio = base64.b64encode(good[generator.choice(sorted(good))]).decode()
    document: dict[str, object] = {generator.choice(("audio", "file", "sound")): audio}
    document |= {
        generator.choice(("words", "model", "x")): generator.choice((True, 1, "a", None, [1]))
    }
    data = bytearray(json.dumps(document).encode())
    for _ in range(generator.randrange(3)):
        data[generator.randrange(len(data))] = generator.randrange(256)
    if generator.random() < 0.2:
        data = data[: generator.randrange(len(data))]
    return Attempt("json", bytes(data), {"Content-Type": "application/json"})


def _coded(generator: random.Random, good: dict[str, bytes]) -> Attempt:
    data = bytearray(gzip.compress(generator.choice((good["wav"], bytes(2_000_000), b""))))
    for _ in range(generator.randrange(3)):
        if data:
            data[generator.randrange(len(data))] = generator.randrange(256)
    if generator.random() < 0.3:
        data = data[: generator.randrange(len(data) + 1)]
    coding = generator.choice(("gzip", "deflate", "br", "GZIP", "identity", "x" * 100))
    return Attempt("coded", bytes(data), {"Content-Encoding": coding, "Content-Type": "audio/wav"})


def _parameters(generator: random.Random, good: dict[str, bytes]) -> Attempt:
    name = generator.choice(
        ("words", "channels", "encoding", "rate", "model", "language", "x", "%00")
    )
    values = (
        "true",
        "split",
        "0,1",
        "7",
        "s16le",
        "16000",
        "-1",
        "%ff%fe",
        "9" * 30,
        "",
        "a" * 3000,
    )
    query = (
        f"?{name}={generator.choice(values)}&{generator.choice(('', 'encoding=s16le&rate=8000'))}"
    )
    return Attempt("parameters", good["wav"], _type(generator), query)


def _noise(generator: random.Random, good: dict[str, bytes]) -> Attempt:
    start = generator.choice(
        (
            b"",
            b"ID3",
            b"OggS",
            b"fLaC",
            b"RIFF",
            b"\x1aE\xdf\xa3",
            b"\0\0\0\x18ftyp",
            b"#!AMR\n",
            b"0&\xb2u",
            b"\xff\xfb",
            b"G",
            b"FORM",
            b"caff",
        )
    )
    return Attempt(
        "noise",
        start + generator.randbytes(generator.choice((0, 1, 10, 500, 50_000))),
        _type(generator),
    )


def _type(generator: random.Random) -> dict[str, str]:
    types = (
        "audio/wav",
        "audio/mpeg",
        "application/octet-stream",
        "text/html",
        "audio/L16;rate=8000",
        "x",
    )
    return {"Content-Type": generator.choice(types)}


def _many(one: bytes, size: int) -> bytes:
    return one * (size // len(one))


def _part(name: bytes, content: bytes = b"") -> bytes:
    head = b'--B\r\nContent-Disposition: form-data; name="' + name + b'"'
    return head + b"\r\n\r\n" + content + b"\r\n"


def _small_wav() -> bytes:
    return wavs.wav_file(b"\1\0")


JSON, FORM = "application/json", "multipart/form-data; boundary=B"
HEAVY: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "JSON of fields": (JSON, lambda: b"{" + _many(b'"a":1,', 24 << 20), "gzip"),
    "JSON of fields, uncompressed": (JSON, lambda: b"{" + _many(b'"a":1,', 8 << 20), ""),
    "JSON of empty texts": (JSON, lambda: b"{" + _many(b'"a":"",', 24 << 20), "gzip"),
    "JSON of escapes": (JSON, lambda: b'{"audio":"' + _many(b"\\/", 16 << 20), "gzip"),
    "JSON of nested lists": (JSON, lambda: b'{"a":' + _many(b"[", 8 << 20), "gzip"),
    "JSON of numbers": (JSON, lambda: b'{"a":[' + _many(b"1,", 16 << 20), "gzip"),
    "JSON of one number": (JSON, lambda: b'{"a":' + _many(b"1", 16 << 20) + b"}", "gzip"),
    "JSON of one name": (JSON, lambda: b'{"' + _many(b"n", 16 << 20) + b'":1}', "gzip"),
    "JSON of one audio": (
        JSON,
        lambda: b'{"audio":"' + base64.b64encode(random.Random(1).randbytes(40 << 20)) + b'"}',
        "",
    ),
    "form of empty fields": (FORM, lambda: b"".join(_part(b"f%d" % n) for n in range(200_000)), ""),
    "form of long names": (
        FORM,
        lambda: b"".join(_part(b"f%08d" % n + b"a" * 50_000) for n in range(300)),
        "gzip",
    ),
    "form of names like ours": (
        FORM,
        lambda: b"".join(_part(b"alterrnatives%d" % n) for n in range(64)),
        "",
    ),
    "part of many headers": (
        FORM,
        lambda: (
            b"--B\r\n" + b"".join(b"X-%06d: " % n + b"a" * 60_000 + b"\r\n" for n in range(300))
        ),
        "",
    ),
    "part of short headers": (FORM, lambda: b"--B\r\n" + _many(b"A: b\r\n", 8 << 20), "gzip"),
    "form with an epilogue": (
        FORM,
        lambda: _part(b"a") + b"--B--\r\n" + _many(b"epilogue", 16 << 20),
        "gzip",
    ),
    "WAV of empty chunks": (
        "audio/wav",
        lambda: b"RIFF\xff\xff\xff\x7fWAVE" + _many(b"LIST\0\0\0\0", 1 << 20),
        "",
    ),
    "WAV files in a row": ("audio/wav", lambda: _many(_small_wav(), 8 << 20), ""),
    "silence": ("audio/wav", lambda: wavs.wav_file(bytes(64 << 20)), "gzip"),
}
"""Bodies that are made to hold the event loop or the memory: Content-Type, body, coding."""


@dataclass(frozen=True, slots=True)
class Heavy:
    """Outcome of a heavy attempt. `grown_bytes`: by how much the supervisor held more, at most,
    while four were sent at once."""

    status: int
    worst_pulse_s: float
    grown_bytes: int


def run_heavy(server: RunningServer, what: str) -> Heavy:
    """Send it four times at once, in small pieces, with a pulse beside it."""
    kind, make, coding = HEAVY[what]
    body = make()
    headers = {"Content-Type": kind} | ({"Content-Encoding": coding} if coding else {})
    if coding:
        body = gzip.compress(body, 6)
    before = largest = _anonymous_bytes(server)
    with Pulse(server.port) as pulse, ThreadPoolExecutor(4) as threads:
        sent = [threads.submit(_send_in_pieces, server, body, headers) for _ in range(4)]
        while not all(one.done() for one in sent):
            largest = max(largest, _anonymous_bytes(server))
            time.sleep(0.02)
    return Heavy(max(one.result() for one in sent), pulse.worst_s, largest - before)


def _anonymous_bytes(server: RunningServer) -> int:
    """Return the bytes that the supervisor holds itself; spools are files, with bounds of their
    own."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def _send_in_pieces(server: RunningServer, body: bytes, headers: dict[str, str]) -> int:
    """Send a body in pieces; return the status of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    try:
        pieces = (body[at : at + 60_000] for at in range(0, len(body), 60_000))
        with contextlib.suppress(ConnectionError):  # refused while it is being sent
            connection.request("POST", CONVERT, pieces, headers, encode_chunked=True)
        return connection.getresponse().status
    finally:
        connection.close()


def run(server: RunningServer, made: Iterator[Attempt], clients: int = 4) -> Outcome:
    """Send all of them, and look what was left."""
    outcome = Outcome()
    before, seen = _held(server), len(server.events())
    with Pulse(server.port) as pulse, ThreadPoolExecutor(clients) as threads:
        for attempt, status, code, took in threads.map(lambda one: _send(server, one), made):
            outcome.statuses[status] += 1
            outcome.codes[code] += 1
            outcome.slowest_s = max(outcome.slowest_s, took)
            if not (status == 200 or 400 <= status < 500) or took > DEADLINE_S:
                outcome.wrong.append(f"{attempt.what}: {status} {code} after {took:.1f} s")
    outcome.wrong += [
        f"{event['event']}: {event.get('traceback') or event.get('exception')}"
        for event in server.events("job.crashed", "request.failed")
    ]
    outcome.worker_exits = sum(
        event["event"] == "worker.exited" and event["cause"] != "recycled"
        for event in server.events()[seen:]
    )
    outcome.worst_pulse_s = pulse.worst_s
    after = _held(server)
    outcome.grown = {name: after[name] - before[name] for name in before}
    return outcome


def _held(server: RunningServer) -> dict[str, int]:
    health = server.health()
    process = server.tree()[0]
    return {
        "supervisor_rss": process.memory_info().rss,
        "supervisor_descriptors": process.num_fds(),
        "processes": len(server.tree()),
        "spools": health["spools"]["open"],
        "largest_worker_growth": max(worker["growth_bytes"] for worker in health["workers"]),
    }


def _send(server: RunningServer, attempt: Attempt) -> tuple[Attempt, int, str, float]:
    started = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_S)
    try:
        connection.request("POST", CONVERT + attempt.query, attempt.body, attempt.headers)
        response = connection.getresponse()
        body = response.read()
        code = "ok"
        if response.status != 200:
            code = str(json.loads(body)["error"]["code"])
        return attempt, response.status, code, time.monotonic() - started
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        return attempt, 0, repr(error)[:80], time.monotonic() - started
    finally:
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", help="a directory; by default the embedded model")
    asked = parser.parse_args()
    flags = [] if asked.model is None else [f"--model={Path(asked.model).absolute()}"]
    with (
        tempfile.TemporaryDirectory() as directory,
        start_server(Path(directory), *flags) as server,
    ):
        server.wait_whole()
        for attempt in attempts(200, 0):  # as it is after a while
            _send(server, attempt)
        started = time.monotonic()
        outcome = run(server, attempts(asked.count, asked.seed))
        took = time.monotonic() - started
        late = []
        for what in HEAVY:
            heavy = [run_heavy(server, what) for _ in range(3)]
            worst_s = statistics.median(one.worst_pulse_s for one in heavy)
            print(f"{what}: {heavy[0].status}, /healthz {worst_s * 1000:.0f} ms, "
                  f"grown {max(one.grown_bytes for one in heavy) / 1e6:.1f} MB")  # fmt: skip
            late += [what] if worst_s > MOST_S else []
    print(f"{asked.count} attempts in {took:.0f} s; the slowest took {outcome.slowest_s:.1f} s")
    print("statuses:", dict(sorted(outcome.statuses.items())))
    print("codes:", dict(outcome.codes.most_common()))
    print(f"/healthz: {outcome.worst_pulse_s * 1000:.0f} ms at the most")
    print("workers ended:", outcome.worker_exits)
    print("grown:", outcome.grown)
    for wrong in outcome.wrong[:50]:
        print("WRONG", wrong)
    for what in late:
        print("WRONG", f"/healthz stood still beside {what}")
    raise SystemExit(bool(outcome.wrong or late) or outcome.worker_exits > 0)


if __name__ == "__main__":
    socket.setdefaulttimeout(DEADLINE_S)
    main()
