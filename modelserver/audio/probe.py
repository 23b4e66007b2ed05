"""Check of the first bytes of an upload: whether it is worth receiving, and, if it is not audio,
what it is and what the sender may have meant to do.

Nothing here decides what the samples are: FFmpeg does that, in a worker.
"""

import base64
import binascii
import re
from collections.abc import Iterable

from modelserver.audio.errors import AudioError, not_audio, too_long, unsupported
from modelserver.audio.formats import RawFormat
from modelserver.audio.riff import FORMS, HEADER_LIMIT_BYTES, ArrivingHeader, Wav

LOOK_BYTES = 512
"""Number of first bytes that suffice to tell what the upload is not."""
_USUAL_HEADER_BYTES = 4096
"""Bytes of a chunk that are looked at first: nearly all headers end there."""

# Magic, where it is, and a name. Only what could be taken for audio by its sender.
_NOT_AUDIO = (
    (b"%PDF", 0, "a PDF"),
    (b"\x89PNG", 0, "a PNG picture"),
    (b"\xff\xd8\xff", 0, "a JPEG picture"),
    (b"GIF8", 0, "a GIF picture"),
    (b"WEBP", 8, "a WebP picture"),
    (b"PK\x03\x04", 0, "a ZIP archive: send the audio file that is in it"),
    (b"PK\x05\x06", 0, "an empty ZIP archive"),
    (b"\x1f\x8b", 0, "a gzip file: send it with Content-Encoding: gzip, or unpacked"),
    (b"BZh", 0, "a bzip2 file: send what is in it"),
    (b"\xfd7zXZ", 0, "an xz file: send what is in it"),
    (b"(\xb5/\xfd", 0, "a zstd file: send what is in it"),
    (b"7z\xbc\xaf", 0, "a 7z archive: send the audio file that is in it"),
    (b"Rar!", 0, "a RAR archive: send the audio file that is in it"),
    (b"ustar", 257, "a tar archive: send the audio file that is in it"),
    (b"\x7fELF", 0, "a program"),
    (b"MZ\x90", 0, "a program"),
    (b"SQLite format 3", 0, "a database"),
    (b"Salted__", 0, "encrypted (by openssl)"),
    (b"age-encryption.org", 0, "encrypted (by age)"),
    (b"-----BEGIN PGP", 0, "encrypted or signed (PGP)"),
    (b"\xd0\xcf\x11\xe0", 0, "an office document"),
)
_OTHER_AUDIO = (
    (b"#!SILK", 0, "SILK"),
    (b"\x02#!SILK", 0, "SILK, as WeChat and QQ record it"),
    (b"MThd", 0, "MIDI, which has notes and no sound"),
    (b".RMF", 0, "RealMedia"),
    (b"DSD ", 0, "DSD"),
    (b"FRM8", 0, "DSDIFF"),
    (b"MPCK", 0, "Musepack"),
    (b"MP+", 0, "Musepack"),
    (b"OFR ", 0, "OptimFROG"),
    (b"ajkg", 0, "Shorten"),
    (b"TWIN", 0, "TwinVQ"),
)
_HTML = re.compile(rb"^\s*(<!doctype|<html|<head|<body|<\?xml|<!--)", re.IGNORECASE)
_JSON = re.compile(rb"^\s*[\[{]\s*[\"\[{}\]0-9tfn]")
_FORM = re.compile(rb"^\s*--[^\r\n]{1,100}\r?\n(content-[a-z-]+:)", re.IGNORECASE)
_BASE64 = re.compile(rb"^[A-Za-z0-9+/_-]{40,}[A-Za-z0-9+/_=\r\n-]*$")
_URL = re.compile(rb"^\s*(https?|file|s3|ftp)://\S+\s*$", re.IGNORECASE)
_URL_ENCODED = re.compile(rb"^[\w.-]{1,60}=([\w.*%+~@/-]|&[\w.-]{1,60}=)*$")
_PLAYLISTS = (b"#EXTM3U", b"[playlist]", b"ffconcat", b"v=0\r", b"v=0\n", b"<SMIL", b"file '")
_TEXT_BYTES = bytes(range(0x20, 0x7F)) + b"\t\r\n\f\x1b"


def what_it_is(head: bytes) -> AudioError | None:
    """Return the error that says what the upload is instead of audio; None if it may be audio."""
    if (name := _named(_NOT_AUDIO, head)) is not None:
        return not_audio(f"this is {name}")
    text = head.lstrip(b"\xef\xbb\xbf")
    if _HTML.match(text):
        return not_audio(
            "this is an HTML or XML page: was it an error page that was saved as audio?"
        )
    if _FORM.match(text):
        return not_audio(
            "this is a form, and its type does not say so: send it as multipart/form-data with its "
            "boundary (most clients do so by themselves if no type is set by hand)"
        )
    if text[:5].lower() == b"data:":
        return not_audio(
            "this is a data: URL that is not base64; encode it so, or send the file's bytes"
        )
    if text.startswith(_PLAYLISTS):
        return not_audio("this is a playlist or description of other files: send the audio itself")
    if _is_text(text):
        return not_audio(_what_text(text))
    if (name := _named(_OTHER_AUDIO, head)) is not None:
        return unsupported(
            f"it is {name}, which is not supported: convert it (ffmpeg -i FILE out.wav)"
        )
    return None


def _named(known: Iterable[tuple[bytes, int, str]], head: bytes) -> str | None:
    """Return the name of the first known kind that begins like `head`."""
    return next((name for magic, at, name in known if head.startswith(magic, at)), None)


def _what_text(text: bytes) -> str:
    start = text.strip()
    if _JSON.match(start):
        return 'this is JSON: send the file\'s bytes, or {"audio": "BASE64"} as application/json'
    if _URL.match(start):
        return "this is an address: send the file that is there, not its address"
    if start[:1] == b"@":
        return (
            "this is the name of a file instead of its bytes: with curl write --data-binary "
            "@FILE, or -F file=@FILE"
        )
    if _BASE64.match(start):
        inside = "audio" if _decoded_start(start) else "something"
        return (
            f"this is base64 of {inside}: send the bytes themselves, or "
            '{"audio": "BASE64"} as application/json, or a data: URL'
        )
    if _URL_ENCODED.match(start):
        return (
            "this is a form of another kind (URL-encoded): send multipart/form-data (curl -F "
            "file=@FILE), or the file's bytes (curl --data-binary @FILE)"
        )
    if len(start) < 300 and b"\n" not in start and re.search(rb"\.\w{2,4}$|^[/~.]", start):
        return (
            f"this is text, {start[:60].decode(errors='replace')!r}: the name of a file instead of "
            "its bytes? With curl write --data-binary @FILE, or -F file=@FILE"
        )
    return "this is text, not audio"


def _decoded_start(text: bytes) -> bool:
    joined = b"".join(text.split())[:64].translate(bytes.maketrans(b"-_", b"+/"))
    try:
        data = base64.b64decode(joined[: len(joined) // 4 * 4])
    except binascii.Error:
        return False
    return data[:4] in (b"RIFF", b"fLaC", b"OggS", b"\x1a\x45\xdf\xa3") or data[:3] == b"ID3"


def _is_text(head: bytes) -> bool:
    """Return whether `head` is readable text: ASCII, or UTF-8 whose last character may be cut
    off."""
    if not head.strip():
        return bool(head)
    if not head.translate(None, _TEXT_BYTES):
        return True
    if any(byte < 0x20 and byte not in b"\t\r\n\f\x1b" for byte in head):
        return False
    for cut in range(4):
        try:
            head[: len(head) - cut].decode()
        except UnicodeDecodeError:
            continue
        return True
    return False


def mangled(head: bytes) -> bool:
    """Return whether `head` is a WAV file without a zero byte in its header: curl's -d removes zero
    bytes and line ends."""
    return head[:4] == b"RIFF" and len(head) >= 12 and b"\0" not in head[:44]


_CONTAINERS = (
    (b"ftyp", 4, "MP4 or M4A"),
    (b"OggS", 0, "Ogg"),
    (b"fLaC", 0, "FLAC"),
    (b"\x1a\x45\xdf\xa3", 0, "Matroska or WebM"),
    (b"ID3", 0, "MP3"),
    (b"RIFF", 0, "WAV or AVI"),
    (b"FORM", 0, "AIFF"),
    (b"caff", 0, "CAF"),
    (b"0&\xb2u", 0, "WMA or ASF"),
    (b"#!AMR", 0, "AMR"),
    (b"FLV", 0, "FLV"),
)
_PACES = {
    "Ogg": 4_000,
    "FLAC": 24_000,
    "Matroska or WebM": 6_000,
    "WAV or AVI": 32_000,
    "AIFF": 88_000,
    "CAF": 88_000,
    "AMR": 1_600,
    None: 12_000,
}
"""Bytes a second, for a guess at how long a file of that container is."""
_PACE_OTHERS = 16_000


def container_of(head: bytes) -> str | None:
    """Return the name of the container that begins like `head`, if it is a known one."""
    return _named(_CONTAINERS, head)


class Gate:
    """Fed with an upload's bytes; raises `AudioError` as soon as there is reason to."""

    def __init__(
        self,
        longest_s: float,
        raw: RawFormat | None = None,
        length: int | None = None,
        *,
        lacks_rate: bool = False,
    ) -> None:
        """Check an upload as it arrives.

        `raw`: the format of samples without a container; `length`: of the file in bytes, if known;
        `lacks_rate`: the client declared samples, but not their rate.
        """
        self._lacks_rate = lacks_rate
        self._longest_s = longest_s
        self._raw = raw
        self._length = length
        self._head = bytearray()
        self._wav: Wav | None = None
        self._header = ArrivingHeader()
        self._looking = True
        self._received = 0

    def feed(self, chunk: bytes) -> None:
        """Check the next bytes of the file. Raises `AudioError`."""
        self._received += len(chunk)
        at, end = 0, _USUAL_HEADER_BYTES
        while self._looking and at < len(chunk):
            self._head += chunk[at:end]
            self._look(complete=False)
            at, end = end, len(chunk)
        self._must_be_short_enough()

    def finish(self) -> tuple[float, bool]:
        """End the upload. Returns the seconds of audio, and whether they are known rather than
        guessed. Raises `AudioError` for an empty file."""
        if self._looking:
            self._look(complete=True)
        if not self._received:
            raise not_audio("the file is empty")
        return self.estimate(self._received), self._pace() > 0

    def estimate(self, size: int) -> float:
        """Return the seconds of audio in a file of `size` bytes that begins like this one."""
        if pace := self._pace():
            at = self._wav.data_at if self._wav else 0
            return max(0.0, (size - at) / pace)
        return size / _PACES.get(container_of(bytes(self._head[:16])), _PACE_OTHERS)

    def _look(self, *, complete: bool) -> None:
        head = self._head
        if len(head) < LOOK_BYTES and not complete:
            return
        is_wav = head[:4] in FORMS
        if self._raw is not None and not is_wav:
            self._looking = False
            return
        if is_wav:
            self._wav = self._header.look(head, complete=complete)
            if self._wav is None and len(head) < HEADER_LIMIT_BYTES and not complete:
                return
        elif (error := what_it_is(bytes(head[:LOOK_BYTES]))) is not None:
            raise error
        elif self._lacks_rate and container_of(bytes(head[:LOOK_BYTES])) is None:
            raise AudioError(
                "bad_parameter",
                "samples without a header need their rate: Content-Type: audio/pcm; rate=16000, or "
                "?encoding=s16le&rate=16000",
            )
        self._looking = False
        del self._head[16:]

    def _pace(self) -> float:
        """Return the bytes per second by the header; 0 if they are unknown."""
        if self._wav is not None:
            return self._wav.bytes_a_second
        return self._raw.rate * self._raw.frame_bytes if self._raw is not None else 0.0

    def _must_be_short_enough(self) -> None:
        pace = self._pace()
        if not pace:
            return
        at = self._wav.data_at if self._wav else 0
        # What the header says counts only as far as it can be true.
        coming = self._received if self._length is None else self._length
        declared = self._wav.declared if self._wav else None
        if declared is not None and coming - at > declared:
            coming = max(self._received, at + declared)
        if (seconds := (coming - at) / pace) > self._longest_s:
            raise too_long(seconds, self._longest_s)
