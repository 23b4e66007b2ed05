"""Accepted formats: the containers and codecs that FFmpeg may use, and samples without a container.

Nothing else is ever opened: no playlist, no list of files, no protocol, no video decoder.
"""

import msgspec

from modelserver.audio.errors import AudioError, unsupported

DEMUXERS = (
    "wav,w64,aiff,caf,au,flac,mp3,aac,loas,ac3,eac3,ogg,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,amr,"
    "amrnb,amrwb,asf,avi,flv,mpegts,mpeg,wv,tta,ape"
)
"""FFmpeg's names of the containers."""

DECODERS = (
    "pcm_alaw,pcm_mulaw,pcm_s8,pcm_s8_planar,pcm_u8,pcm_s16le,pcm_s16be,pcm_s16le_planar,pcm_u16le,"
    "pcm_u16be,pcm_s24le,pcm_s24be,pcm_s24le_planar,pcm_u24le,pcm_u24be,pcm_s32le,pcm_s32be,"
    "pcm_s32le_planar,pcm_u32le,pcm_u32be,pcm_s64le,pcm_s64be,pcm_f16le,pcm_f32le,pcm_f32be,"
    "pcm_f64le,pcm_f64be,pcm_bluray,pcm_dvd,"
    "adpcm_ms,adpcm_ima_wav,adpcm_ima_qt,adpcm_swf,adpcm_yamaha,g726,g726le,g722,g723_1,g729,gsm,"
    "gsm_ms,truespeech,nellymoser,speex,ilbc,qcelp,"
    "flac,alac,tta,wavpack,ape,mp1,mp1float,mp2,mp2float,mp3,mp3float,aac,aac_latm,ac3,eac3,"
    "opus,vorbis,amrnb,amrwb,wmav1,wmav2,wmapro,wmalossless,wmavoice,qdm2"
)
"""FFmpeg's names of the decoders."""

CHANNELS = range(1, 33)
SAMPLE_RATES = range(4_000, 768_001)

ENCODINGS = {
    "s8": 1,
    "u8": 1,
    "s16le": 2,
    "s16be": 2,
    "s24le": 3,
    "s24be": 3,
    "s32le": 4,
    "s32be": 4,
    "f32le": 4,
    "f32be": 4,
    "f64le": 8,
    "f64be": 8,
    "alaw": 1,
    "mulaw": 1,
}
"""Samples without a container: FFmpeg's name of the raw format, to bytes a sample."""

EITHER_ENDIAN = "l16"
"""Encoding of 16 bits whose byte order is detected: audio/L16 is big-endian by RFC 2586, and
little-endian from many clients."""

_SPELLINGS = {
    "pcm": "s16le",
    "linear16": "s16le",
    "pcm_s16le": "s16le",
    "pcm16": "s16le",
    "s16": "s16le",
    "l16": EITHER_ENDIAN,
    "l8": "u8",
    "l24": "s24be",
    "ulaw": "mulaw",
    "u-law": "mulaw",
    "a-law": "alaw",
    "pcmu": "mulaw",
    "pcma": "alaw",
    "mu-law": "mulaw",
    "f32": "f32le",
    "float32": "f32le",
}

_TYPES = {
    "audio/l8": ("u8", None),
    "audio/l16": (EITHER_ENDIAN, None),
    "audio/l24": ("s24be", None),
    "audio/pcm": ("s16le", None),
    "audio/x-pcm": ("s16le", None),
    "audio/raw": ("s16le", None),
    "audio/x-raw": ("s16le", None),
    "audio/basic": ("mulaw", 8_000),
    "audio/pcmu": ("mulaw", 8_000),
    "audio/x-mulaw": ("mulaw", 8_000),
    "audio/pcma": ("alaw", 8_000),
    "audio/x-alaw": ("alaw", 8_000),
}
"""Media types of samples without a container: encoding, and rate where the type says it
(RFC 2586, RFC 3551, RFC 2046)."""


class RawFormat(msgspec.Struct, frozen=True):
    """Samples without a container. `rate`: frames a second."""

    encoding: str
    rate: int
    channels: int = 1

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return ENCODINGS.get(self.encoding, 2) * self.channels


def raw_format(encoding: str, rate: int | None, channels: int) -> RawFormat:
    """Return the format that a client named. Raises `AudioError`."""
    wanted = encoding.lower()
    known = _SPELLINGS.get(wanted, wanted)
    if known not in ENCODINGS and known != EITHER_ENDIAN:
        raise AudioError(
            "bad_parameter",
            f"encoding={encoding!r} is not known; there are: {', '.join(ENCODINGS)}",
        )
    if rate is None:
        raise AudioError("bad_parameter", f"samples of {known} need a rate (rate=16000)")
    if rate not in SAMPLE_RATES:
        raise unsupported(
            f"a rate of {rate} is not supported: expected {SAMPLE_RATES[0]} to {SAMPLE_RATES[-1]}"
        )
    if channels not in CHANNELS:
        raise unsupported(
            f"{channels} channels are not supported: expected {CHANNELS[0]} to {CHANNELS[-1]}"
        )
    return RawFormat(known, rate, channels)


def type_encoding(media_type: str) -> tuple[str, int | None] | None:
    """Encoding and rate of a media type that names samples without a container; None for others."""
    return _TYPES.get(media_type.lower())
