"""Requests as people send them: forms, headers, parameters, codings, and mistakes in them; to the
server itself, and through nginx as it is shipped."""

import base64
import contextlib
import gzip
import json
import random
import socket
import subprocess
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import requests
import wavs
from encoded import LOSSLESS, LOSSY, encoded
from front import gateway_of
from running import Answer, RunningServer, ask, start_server, until
from wavs import wav_file

from modelserver.refusal import Refusal
from modelserver.request.codings import Base64, Inflater
from modelserver.request.headers import disposition
from modelserver.request.json_body import JsonBody
from modelserver.request.parameters import read_parameters
from supervisor import Spool, SpoolStore

CONVERT = "/api/audio/convert"
B = "XbX"
FORM = f"multipart/form-data; boundary={B}"


@pytest.fixture(scope="module")
def behind(
    tmp_path_factory: pytest.TempPathFactory, small_settings: dict[str, str]
) -> Iterator[tuple[RunningServer, str]]:
    """A server, and the address of an nginx before it."""
    directory = tmp_path_factory.mktemp("bodies")
    directory.chmod(0o755)
    with start_server(
        directory,
        **small_settings,
        MODELSERVER_LANGUAGE="ko",
        MODELSERVER_WORKERS_COUNT="2",
        MODELSERVER_LIMITS_BODY="2MiB",
        MODELSERVER_LIMITS_UPLOAD_IDLE_S="2",
        MODELSERVER_CORS_ORIGINS="https://good.example,http://localhost:3000",
        MODELSERVER_PROXIES_TRUSTED="127.0.0.0/8",
    ) as server:
        server.wait_whole()
        with gateway_of(directory, server.port, "1026m") as gateway:
            yield server, f"http://127.0.0.1:{gateway.port}"


@pytest.fixture(params=["directly", "through nginx"])
def url(request: pytest.FixtureRequest, behind: tuple[RunningServer, str]) -> str:
    server, gateway = behind
    return server.url if request.param == "directly" else gateway


@pytest.fixture(scope="module")
def wav(wav_clips: list[bytes]) -> bytes:
    return wav_clips[2]


@pytest.fixture(scope="module")
def pcm(clips: list[bytes]) -> bytes:
    return clips[2]


@pytest.fixture(scope="module")
def text(behind: tuple[RunningServer, str], wav: bytes) -> str:
    """Text that this model recognises in the clip."""
    said: str = behind[0].convert(wav).json["text"]
    assert len(said) > 5
    return said


def convert(url: str, body: bytes, query: str = "", **headers: str) -> Answer:
    return ask(f"{url}{CONVERT}{query}", body, **headers)


def part(head: bytes, content: bytes) -> bytes:
    return b"--" + B.encode() + b"\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: tuple[bytes, bytes]) -> bytes:
    """Parts by their headers as they stand, and content."""
    return b"".join(part(*one) for one in parts) + b"--" + B.encode() + b"--\r\n"


def field(name: str, value: bytes | str) -> tuple[bytes, bytes]:
    content = value.encode() if isinstance(value, str) else value
    return f'Content-Disposition: form-data; name="{name}"'.encode(), content


def file(content: bytes, name: bytes = b'filename="a.wav"') -> tuple[bytes, bytes]:
    return b'Content-Disposition: form-data; name="file"; ' + name, content


# --- forms ----------------------------------------------------------------------------------------

NAMES = {
    "plain": b'filename="a.wav"',
    "9,000 characters": b'filename="' + b"a" * 9000 + b'.wav"',
    "a semicolon": b'filename="a;b.wav"',
    "a semicolon and no quotes": b"filename=a;b.wav",
    "spaces and no quotes": b"filename=my file.wav",
    "UTF-8": 'filename="录音.wav"'.encode(),
    "GBK": 'filename="录音.wav"'.encode("gbk"),
    "latin-1": 'filename="été.wav"'.encode("latin-1"),
    "extended alone": b"filename*=UTF-8''%e5%bd%95.wav",
    "extended and plain": b"filename=\"x.wav\"; filename*=UTF-8''%e5%bd%95.wav",
    "extended, odd charset": b"filename*=x-nobody-knows''%ff.wav",
    "quotes": b'filename="a\\"b.wav"',
    "backslashes": b'filename="C:\\music\\a.wav"',
    "an open quote": b'filename="a.wav',
    "empty with bytes": b'filename=""',
    "upper case": b'FILENAME="a.wav"',
    "a line of tabs": b'filename="\ta\t.wav"',
    "slashes": b'filename="../../etc/passwd"',
    "no quotes at all": b"filename=a.wav",
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_file_is_a_file_whatever_its_name(url: str, wav: bytes, text: str, name: str) -> None:
    answer = convert(url, form(file(wav, NAMES[name])), Content_Type=FORM)
    assert (answer.status, answer.json.get("text")) == (200, text), answer.body


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b'Content-Disposition: form-data; name="f"; filename="a"\r\nno colon here', 400),
        (b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + file(b"")[0], 200),
        (b"X-Long: " + b"x" * 20_000 + b"\r\n" + file(b"")[0], 200),
        (b"".join(b"X-%d: 1\r\n" % n for n in range(3000)) + file(b"")[0], 400),
        (b"X-Long: " + b"x" * 200_000 + b"\r\n" + file(b"")[0], 400),
        (b"content-disposition: FORM-DATA; NAME=file; FILENAME=a", 200),
        (b"Content-Type: audio/wav", 200),
        (b"Content-Disposition:", 200),  # without a name, but evidently audio
        (file(b"")[0] + b"\r\nContent-Type: text/html", 200),
        (file(b"")[0] + b"\r\nContent-Transfer-Encoding: binary", 200),
        (file(b"")[0] + b"\r\nContent-Transfer-Encoding: quoted-printable", 400),
    ],
)
def test_no_part_header_is_an_error_of_ours(url: str, wav: bytes, head: bytes, status: int) -> None:
    answer = convert(url, form((head, wav)), Content_Type=FORM)
    assert answer.status == status, answer.body
    if status == 400:
        assert answer.json["error"]["code"] in ("malformed_multipart", "missing_file")


def test_an_input_that_was_left_empty_is_no_file(url: str, wav: bytes, text: str) -> None:
    empty = file(b"", b'filename=""')
    for parts in ((empty, file(wav)), (file(wav), empty), (empty, file(wav), empty)):
        assert convert(url, form(*parts), Content_Type=FORM).json["text"] == text
    nothing = convert(url, form(empty), Content_Type=FORM)
    assert (nothing.status, nothing.json["error"]["code"]) == (400, "missing_file")


def test_text_that_is_called_file_counts_where_there_is_no_file(
    url: str, wav: bytes, text: str
) -> None:
    for parts in (
        (field("file", wav),),
        (field("audio", wav),),
        (field("file", "a.wav"), file(wav)),
        (file(wav), field("audio", "x" * 1000)),
        (field("audio", "1"), file(wav)),  # a single character is not base64
        (field("audio", base64.b64encode(wav)),),
        (field("file", b"data:audio/wav;base64," + base64.b64encode(wav)),),
    ):
        answer = convert(url, form(*parts), Content_Type=FORM)
        assert answer.json.get("text") == text, answer.body
    name = convert(url, form(field("file", "a.wav")), Content_Type=FORM)
    assert name.status == 400
    assert "the name of a file" in name.json["error"]["message"]


def test_two_files_are_too_many(url: str, wav: bytes) -> None:
    for parts in ((file(wav), file(wav)), (field("file", wav), field("audio", wav))):
        answer = convert(url, form(*parts), Content_Type=FORM)
        assert (answer.status, answer.json["error"]["code"]) == (400, "too_many_files")


def test_base64_is_decoded_wherever_it_is_said(url: str, wav: bytes, text: str) -> None:
    coded = base64.encodebytes(wav)
    head = file(b"")[0] + b"\r\nContent-Transfer-Encoding: BASE64"
    assert convert(url, form((head, coded)), Content_Type=FORM).json["text"] == text
    address = b"data:audio/wav;base64," + base64.b64encode(wav)
    assert convert(url, address, Content_Type="text/plain").json["text"] == text
    for key in ("audio", "file", "data"):
        for value in (base64.b64encode(wav), base64.urlsafe_b64encode(wav).rstrip(b"="), address):
            body = json.dumps({"words": True, key: value.decode(), "language": "ko"}).encode()
            answer = convert(url, body, Content_Type="application/json; charset=utf-8")
            assert answer.json.get("text") == text, answer.body
            assert answer.json["words"]
    damaged = convert(url, b'{"audio": "AB!C"}', Content_Type="application/json")
    assert (damaged.status, damaged.json["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "incomplete_body"),
        (b"[]", "bad_request"),
        (b"{", "incomplete_body"),
        (b'{"audio"', "incomplete_body"),
        (b'{"audio": "UklG', "incomplete_body"),
        (b'{"audio": {"x": 1}}', "bad_request"),
        (b'{"audio": 5}', "missing_file"),
        (b'{"audio": null}', "missing_file"),
        (b'{"audio": ""}', "not_audio"),
        (b'{"audio": "UklGRg==", "audio": "UklGRg=="}', "too_many_files"),
        (b'{"audio": "UklGRg=="} more', "bad_request"),
        (b'{"audio": "UklGRg==" "x": 1}', "bad_request"),
        (b'{"words": maybe, "audio": "UklGRg=="}', "bad_request"),
        (b"\xff\xfe{}", "bad_request"),
        (b"{" + b'"x": "' + b"y" * 200_000, "incomplete_body"),
        (b'{"x": "' + b"y" * 200_000 + b'", "audio": "UklGRg=="}', "bad_request"),
        (b'{"audio": "UklGRg==", "file": "UklGRg=="}', "too_many_files"),
        (b'{"words": true, "words": false, "audio": "UklGRg=="}', "bad_parameter"),
        (b'{"audio": "UklGRg==", "x": ' + b"[" * 5000, "bad_request"),
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "bad_request"),
        (b'{"audio": "UklGRg==", "n": ' + b"9" * 60_000 + b"}", "bad_request"),
        (b"{" + b"".join(b'"f%d": 1, ' % n for n in range(65)) + b'"audio": ""}', "bad_request"),
    ],
)
def test_json_that_is_none_is_refused(
    behind: tuple[RunningServer, str], body: bytes, code: str
) -> None:
    answer = convert(behind[0].url, body, Content_Type="application/json")
    assert (answer.status, answer.json["error"]["code"]) == (400, code), answer.body


@pytest.mark.parametrize(
    ("content_type", "body", "says"),
    [
        ("multipart/form-data", form(file(b"x")), "has no boundary"),
        (f"multipart/form-data; boundary={'x' * 300}", form(file(b"x")), "cannot be read"),
        ("multipart/form-data; boundary=other", form(file(b"x")), "cannot be read"),
        ("audio/wav", form(file(b"x")), "this is a form"),
        ("application/x-www-form-urlencoded", b"file=a.wav&model=x", "URL-encoded"),
        ("audio/wav", wav_file(bytes(8000)).replace(b"\0", b""), "--data-binary"),
        ("audio/wav", b"@a.wav", "--data-binary"),
        ("audio/pcm", bytes(range(256)) * 10, "need their rate"),
        ("audio/wav", b"<html>Not found</html>", "HTML"),
        ("application/pdf", b"%PDF-1.7 " + bytes(1000), "a PDF"),
    ],
)
def test_a_known_mistake_is_named(url: str, content_type: str, body: bytes, says: str) -> None:
    answer = convert(url, body, Content_Type=content_type)
    assert answer.status == 400, answer.body
    assert says in answer.json["error"]["message"]


# --- types and codings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        "AUDIO/WAV",
        "audio/mpeg",
        "text/plain; charset=x",
        "video/mp4",
        "x",
        "image/png",
        "text/html",
    ],
)
def test_any_type_is_taken_for_what_is_audio(
    url: str, wav: bytes, text: str, content_type: str
) -> None:
    assert convert(url, wav, Content_Type=content_type).json["text"] == text


def test_compressed_bodies_are_taken(url: str, wav: bytes, text: str) -> None:
    raw = zlib.compressobj(wbits=-15)
    bodies = {
        "gzip": gzip.compress(wav),
        "x-gzip": gzip.compress(wav[:1000]) + gzip.compress(wav[1000:]),
        "deflate": zlib.compress(wav),
        "DEFLATE": raw.compress(wav) + raw.flush(),
        "identity": wav,
    }
    for coding, body in bodies.items():
        answer = convert(url, body, Content_Encoding=coding)
        assert answer.json.get("text") == text, (coding, answer.body)
    whole = gzip.compress(form(field("words", "true"), file(wav)))
    assert convert(url, whole, Content_Type=FORM, Content_Encoding="gzip").json["words"]


def test_compressed_bodies_are_bounded_and_checked(
    behind: tuple[RunningServer, str], url: str, wav: bytes
) -> None:
    bomb = gzip.compress(wav_file(bytes(100_000_000)))
    answers = [
        (convert(url, bomb, Content_Encoding="gzip"), 413, "body_too_large"),
        (convert(url, gzip.compress(wav)[:-20], Content_Encoding="gzip"), 400, "incomplete_body"),
        (convert(url, wav, Content_Encoding="gzip"), 400, "bad_request"),
        (convert(url, wav, Content_Encoding="br"), 415, "unsupported_media_type"),
        (convert(url, wav, Content_Encoding="gzip, gzip"), 415, "unsupported_media_type"),
    ]
    for answer, status, code in answers:
        assert (answer.status, answer.json["error"]["code"]) == (status, code), answer.body
    assert "'br'" in answers[3][0].json["error"]["message"]
    assert not behind[0].events("request.failed")


# --- parameters -----------------------------------------------------------------------------------


def test_parameters_may_be_fields_in_any_order(url: str, wav: bytes) -> None:
    words = field("words", "true")
    for parts in ((words, file(wav)), (file(wav), words)):
        assert convert(url, form(*parts), Content_Type=FORM).json["words"]
    label = form(file(wav), field("model", "default"), field("language", "ko_KR"))
    assert convert(url, label, Content_Type=FORM).status == 200
    other = form(file(wav), field("model", "nobody"))
    missing = convert(url, other, Content_Type=FORM)
    assert (missing.status, missing.json["error"]["code"]) == (404, "model_not_found")
    assert "default" in missing.json["error"]["message"]
    extra = convert(url, form(file(wav), field("submit", "Send")), Content_Type=FORM)
    assert extra.json["warnings"] == ["the field 'submit' is not known, and was ignored"]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("?word=true", "did you mean words?"),
        ("?nothing=1", "there are: model, language"),
        ("?words=perhaps", "neither true nor false"),
        ("?words=true&words=false", "given twice"),
        ("?channels=left", "mix, split, or numbers"),
        ("?encoding=mp5&rate=8000", "there are: s8"),
        ("?encoding=s16le", "need a rate"),
        ("?encoding=s16le&rate=fast", "is not a number"),
        ("?encoding=s16le&rate=8000&channel_count=" + "9" * 5000, "is not a number"),
        ("?rate=8000", "add encoding"),
        ("?channel_count=2", "add encoding"),
        ("?encoding=s16le&rate=8000&channels=2", "add channel_count"),
        ("?language=%21%21", "is not a language tag"),
    ],
)
def test_a_parameter_that_is_none_is_named(url: str, wav: bytes, query: str, says: str) -> None:
    answer = convert(url, wav, query)
    assert (answer.status, answer.json["error"]["code"]) == (400, "bad_parameter"), answer.body
    assert says in answer.json["error"]["message"]


@pytest.mark.parametrize("language", ["ko", "ko-KR", "KO_kr", "kr", "kor", "korean", "auto", ""])
def test_languages_are_understood_as_people_write_them(
    behind: tuple[RunningServer, str], wav: bytes, language: str
) -> None:
    assert convert(behind[0].url, wav, f"?language={language}").status == 200


@pytest.mark.parametrize(
    ("said", "tag"),
    [
        ("kor", "ko"),
        ("zho", "zh"),
        ("chi", "zh"),
        ("cmn-Hans-CN", "zh-hans-cn"),
        ("zh_CN.UTF-8", "zh-cn"),
        ("ja_JP@x", "ja-jp"),
        ("yue", "yue"),
        ("Cantonese", "yue"),
        ("deu", "de"),
        ("ger", "de"),
        ("pt_BR", "pt-br"),
        ("xyz", "xyz"),
    ],
)
def test_languages_are_known_by_all_their_names(said: str, tag: str) -> None:
    assert read_parameters([("language", said)], {}, "")[0].language == tag


@pytest.mark.parametrize("said", ["zh", "zh-CN", "zh_CN", "cn", "CN", "chinese", "zh-hans-cn"])
def test_chinese_has_many_names(said: str) -> None:
    parameters, _ = read_parameters([("language", said)], {}, "")
    assert parameters.language is not None
    assert parameters.language.split("-")[0] == "zh"


def test_samples_without_a_header_are_heard(url: str, pcm: bytes, text: str) -> None:
    swapped = bytes(pcm[i ^ 1] for i in range(len(pcm)))
    for content_type, query, body in (
        ("audio/L16; rate=16000; channels=1", "", swapped),
        ("audio/l16;rate=16000", "", pcm),
        ("audio/pcm;rate=16000", "", pcm),
        ("application/octet-stream", "?encoding=s16le&rate=16000&channel_count=1", pcm),
        ("audio/wav", "?encoding=linear16&rate=16000", pcm),
    ):
        answer = convert(url, body, query, Content_Type=content_type)
        assert answer.json.get("text") == text, (content_type, answer.body)
    as_fields = form(file(pcm), field("encoding", "s16le"), field("rate", "16000"))
    assert convert(url, as_fields, Content_Type=FORM).json["text"] == text


def test_channels_of_a_call_are_heard_one_by_one(url: str, pcm: bytes) -> None:
    quiet = bytes(16_000)
    left, right = pcm + quiet + bytes(len(pcm)), bytes(len(pcm)) + quiet + pcm
    frames = b"".join(left[i : i + 2] + right[i : i + 2] for i in range(0, len(left), 2))
    call = wavs.wav_file(frames, channels=2)
    answer = convert(url, call, "?channels=split&words=true").json
    assert {segment["channel"] for segment in answer["segments"]} == {0, 1}
    starts = [segment["start"] for segment in answer["segments"]]
    assert starts == sorted(starts)
    for number, shift, alone in ((0, 0.0, left), (1, len(pcm + quiet) / 32_000, right)):
        heard = " ".join(s["text"] for s in answer["segments"] if s["channel"] == number)
        assert heard == convert(url, wav_file(alone)).json["text"]
        words = [w for w in answer["words"] if w["channel"] == number]
        assert all(w["start"] >= shift - 0.1 for w in words)
    only = convert(url, call, "?channels=1").json
    assert {segment["channel"] for segment in only["segments"]} == {1}
    raw = "?encoding=s16le&rate=16000&channel_count=2"
    assert convert(url, frames, f"{raw}&channels=1").json["text"] == only["text"]
    assert convert(url, frames, f"{raw}&channels=split").json["text"] == answer["text"]
    missing = convert(url, call, "?channels=0,2")
    assert (missing.status, missing.json["error"]["code"]) == (400, "bad_parameter")


# --- every file, by every door --------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(LOSSLESS))
def test_the_same_speech_gives_the_same_text(url: str, pcm: bytes, text: str, kind: str) -> None:
    assert convert(url, encoded(pcm, kind), Content_Type="audio/x").json["text"] == text


@pytest.mark.parametrize("kind", sorted(LOSSY))
def test_other_codecs_are_understood(url: str, pcm: bytes, kind: str) -> None:
    answer = convert(url, encoded(pcm, kind), Content_Type="video/x")
    assert answer.status == 200, answer.body
    assert answer.json["text"]


# --- the connection -------------------------------------------------------------------------------


def said(port: int, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.settimeout(20)
        sock.sendall(sent)
        received = b""
        while block := sock.recv(65536):
            received += block
    return received


@pytest.mark.parametrize("closed", ["altogether", "for sending"])
def test_who_has_gone_is_not_worked_for(
    behind: tuple[RunningServer, str], clips: list[bytes], closed: str
) -> None:
    server = behind[0]
    long = wav_file(b"".join(clips) * 2)
    head = f"POST {CONVERT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(long)}\r\n\r\n".encode()
    seen = len(server.events())
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head + long)
        until(lambda: server.health()["queue"]["admitted"] == 1)
        if closed == "for sending":
            sock.shutdown(socket.SHUT_WR)
            server.wait_event("request.abandoned", seen)
    server.wait_event("request.abandoned", seen)
    until(lambda: server.health()["queue"]["admitted"] == 0)


def big(size: int) -> Iterator[bytes]:
    for _ in range(size // 65536):
        yield bytes(65536)


@pytest.mark.parametrize("client", ["requests", "httpx", "curl", "urllib"])
def test_who_is_refused_while_sending_sees_it(url: str, client: str, tmp_path: Path) -> None:
    """Send 100 MB, where 2 are allowed; with a length, which is refused at once, and without."""
    size = 100_000_000
    address = url + CONVERT
    for known in (True, False):
        match client:
            case "requests":
                body: Any = bytes(size) if known else big(size)
                answer = requests.post(address, data=body, timeout=60)
                status, document = answer.status_code, answer.json()
            case "httpx":
                body = bytes(size) if known else big(size)
                response = httpx.post(address, content=body, timeout=60)
                status, document = response.status_code, response.json()
            case "curl":
                source = tmp_path / "big"
                source.write_bytes(bytes(size))
                how = ["-H", "Transfer-Encoding: chunked"] if not known else []
                out = subprocess.run(
                    [
                        *("curl", "-sS", "-w", "\n%{http_code}", "-H", "Expect:", *how),
                        *("--data-binary", f"@{source}", address),
                    ],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert out.returncode == 0, out.stderr
                document, status = json.loads(out.stdout.splitlines()[0]), int(out.stdout[-3:])
            case _:
                document = ask(address, bytes(size), timeout_s=60).json
                status = 413
        assert (status, document["error"]["code"]) == (413, "body_too_large")
        assert "limits.body" in document["error"]["message"]
        assert "limits.audio_s" in document["error"]["message"]


def test_an_upload_by_drops_is_refused(behind: tuple[RunningServer, str]) -> None:
    head = f"POST {CONVERT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", behind[0].port)) as sock:
        sock.sendall(head + wav_file(bytes(1000))[:44])
        sock.settimeout(0.3)
        answer = b""
        for _ in range(40):
            try:
                sock.sendall(b"\0\0")
                answer = sock.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            if answer:
                break
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"limits.upload_min_bytes_s" in answer


def test_pages_that_may_are_let_in_by_the_browser(url: str, wav: bytes) -> None:
    preflight = requests.options(
        url + CONVERT,
        headers={
            "Origin": "https://good.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        },
        timeout=10,
    )
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://good.example"
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "Content-Type" in preflight.headers["Access-Control-Allow-Headers"]
    for body, status in ((wav, 200), (b"hello", 400)):
        answer = convert(url, body, Origin="http://localhost:3000")
        assert answer.status == status
        assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
        assert "Origin" in answer.headers["Vary"]
    other = convert(url, wav, Origin="https://evil.example")
    assert "Access-Control-Allow-Origin" not in other.headers


def test_who_does_not_read_an_answer_is_disconnected(behind: tuple[RunningServer, str]) -> None:
    server = behind[0]
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        own = sock.getsockname()

        def there() -> bool:
            connections = psutil.Process(server.pid).net_connections("tcp")
            return any(one.raddr == own for one in connections)

        sock.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
        until(there, 30, "the connection is accepted")
        until(lambda: not there(), 60, "the connection is given up")
    assert server.ask("/readyz").status == 200


def test_several_requests_at_once_are_all_answered_to_who_then_waits(
    behind: tuple[RunningServer, str], wav: bytes, text: str
) -> None:
    head = f"POST {CONVERT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(wav)}\r\n".encode()
    last = head + b"Connection: close\r\n\r\n" + wav
    answers = said(behind[0].port, (head + b"\r\n" + wav) * 2 + last)
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert answers.count(text.encode()) == 3


def test_a_gateway_on_ipv4_is_trusted_where_both_families_are_listened_to(
    tmp_path: Path, small_settings: dict[str, str]
) -> None:
    with start_server(tmp_path, **small_settings, MODELSERVER_HOST="::") as server:
        for told, client in ((None, "127.0.0.1"), ("203.0.113.7", "203.0.113.7"),
                             ("::ffff:203.0.113.8", "203.0.113.8")):  # fmt: skip
            more = {"X_Forwarded_For": told} if told else {}
            seen = len(server.events())
            ask(f"http://127.0.0.1:{server.port}/v1/models", **more)
            assert server.wait_event("request.done", seen)["client"] == client


def test_the_client_is_who_a_trusted_gateway_says(
    behind: tuple[RunningServer, str], wav: bytes
) -> None:
    server = behind[0]
    for number, (told, client) in enumerate(
        (
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.7, 198.51.100.1", "198.51.100.1"),
            ("203.0.113.7, 127.0.0.5", "203.0.113.7"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("203.0.113.7:5000", "203.0.113.7"),
            ("nonsense", "127.0.0.1"),
            ("", "127.0.0.1"),
        )
    ):
        convert(server.url, wav, X_Forwarded_For=told, X_Request_ID=f"for-{number}")
        assert server.wait_event("request.done", request_id=f"for-{number}")["client"] == client


# --- the parts by themselves ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "name", "file_name"),
    [
        (b'form-data; name="a"; filename="b"', "a", "b"),
        (b"form-data; name=a; filename=b;c.wav", "a", "b;c.wav"),
        (b'form-data; filename="x;name=y"; name=z', "z", "x;name=y"),
        (b'form-data; name="a\\"b"', 'a"b', None),
        (b"form-data; name=a; filename*=UTF-8''%E5%BD%95", "a", "录"),
        ('form-data; name=a; filename="录音"'.encode("gbk"), "a", "录音"),
        (b"form-data", None, None),
        (b"", None, None),
        (b"attachment; filename=", None, ""),
    ],
)
def test_dispositions(value: bytes, name: str | None, file_name: str | None) -> None:
    assert disposition(value) == (name, file_name)


async def test_no_bytes_break_what_reads_them(wav: bytes) -> None:
    generator = random.Random(5)
    good = json.dumps({"a": "b\\u00e9", "audio": base64.b64encode(wav[:300]).decode(), "n": 1})
    spools = SpoolStore()
    for _ in range(2000):
        broken = bytearray(good.encode())
        for _ in range(generator.randrange(0, 4)):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        async with spools.open() as spool:
            with contextlib.suppress(Refusal):
                await taken_apart(spool, bytes(broken), generator.randrange(1, 60))
        disposition(bytes(broken))


async def taken_apart(spool: Spool, text: bytes, step: int) -> tuple[bytes, dict[str, str]]:
    """Return the characters of the audio in a JSON body that comes in steps, and its fields."""

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(text), step):
            yield text[at : at + step]

    body = JsonBody(spool)
    await body.receive(chunks())
    return b"".join([piece async for piece in body.audio()]), body.fields


async def test_escapes_in_json_are_replaced_wherever_they_are_cut() -> None:
    data = random.Random(1).randbytes(700_000)
    coded = base64.b64encode(data).decode()
    wide = "".join(f"\\u{ord(one):04x}" for one in coded[:200_000]) + coded[200_000:]
    async with SpoolStore().open() as spool:
        for audio in (coded, coded.replace("/", "\\/"), wide, coded.replace("A", "A\\r\\n")):
            await spool.clear()
            text = f'{{"phrases": ["a", "b"], "audio": "{audio}", "on": true, "n": 1.5}}'
            found, fields = await taken_apart(spool, text.encode(), 100_000)
            assert base64.b64decode(found) == data
            assert fields == {"phrases": '["a", "b"]', "on": "true", "n": "1.5"}


def test_base64_comes_out_however_it_is_cut() -> None:
    data = random.Random(1).randbytes(1000)
    text = base64.encodebytes(data)
    for size in (1, 3, 7, 100):
        decoder = Base64()
        out = b"".join(decoder.feed(text[i : i + size]) for i in range(0, len(text), size))
        assert out + decoder.finish() == data


def test_what_is_inflated_comes_in_small_pieces() -> None:
    pieces = list(Inflater("gzip").feed(gzip.compress(bytes(10_000_000))))
    assert sum(map(len, pieces)) == 10_000_000
    assert max(map(len, pieces)) <= 1 << 18
