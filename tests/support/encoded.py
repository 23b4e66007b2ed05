"""Speech in every container and codec that can be written here, by FFmpeg's own encoders."""

import io
from fractions import Fraction

import av

LOSSLESS = {
    "flac": ("flac", "flac", {}),
    "flac in ogg": ("ogg", "flac", {}),
    "wav": ("wav", "pcm_s16le", {}),
    "wav of 24 bits": ("wav", "pcm_s24le", {}),
    "wav of 32 bits": ("wav", "pcm_s32le", {}),
    "wav of floats": ("wav", "pcm_f32le", {}),
    "wav of long floats": ("wav", "pcm_f64le", {}),
    "rf64": ("wav", "pcm_s16le", {"rf64": "always"}),
    "w64": ("w64", "pcm_s16le", {}),
    "aiff": ("aiff", "pcm_s16be", {}),
    "aifc": ("aiff", "pcm_s16le", {}),
    "caf": ("caf", "pcm_s16be", {}),
    "au": ("au", "pcm_s16be", {}),
    "alac in m4a": ("ipod", "alac", {}),
    "wavpack": ("wv", "wavpack", {}),
    "tta": ("tta", "tta", {}),
    "pcm in matroska": ("matroska", "pcm_s16le", {}),
    "pcm in mov": ("mov", "pcm_s16be", {}),
    "pcm in avi": ("avi", "pcm_s16le", {}),
}
"""Name, to container, codec and options: the samples come out as they went in."""

LOSSY = {
    "wav of a-law": ("wav", "pcm_alaw", {}),
    "wav of mu-law": ("wav", "pcm_mulaw", {}),
    "wav of ima adpcm": ("wav", "adpcm_ima_wav", {}),
    "wav of ms adpcm": ("wav", "adpcm_ms", {}),
    "mp3": ("mp3", "libmp3lame", {}),
    "mp3 in avi": ("avi", "libmp3lame", {}),
    "aac": ("adts", "aac", {}),
    "m4a": ("ipod", "aac", {}),
    "fragmented mp4": ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
    "mp4 of Safari's recorder": (
        "mp4",
        "aac",
        {"movflags": "empty_moov+default_base_moof", "frag_duration": "250000"},
    ),
    "opus": ("opus", "libopus", {}),
    "webm": ("webm", "libopus", {"live": "1"}),
    "vorbis": ("ogg", "vorbis", {}),
    "wma": ("asf", "wmav2", {}),
    "mp2 in mpeg-ts": ("mpegts", "mp2", {}),
    "ac3": ("ac3", "ac3", {}),
    "amr": ("amr", "libopencore_amrnb", {}),
}
_STEREO = ("vorbis",)
_RATES = {
    "libopencore_amrnb": 8_000,
    "libopus": 48_000,
    "vorbis": 44_100,
    "wmav2": 44_100,
    "ac3": 48_000,
    "mp2": 48_000,
}


def encoded(pcm: bytes, kind: str, rate: int = 16_000) -> bytes:
    """Return the samples (16 bits, mono) as a file of that kind."""
    container, codec, options = (LOSSLESS | LOSSY)[kind]
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options) as output:
        layout = "stereo" if codec in _STEREO else "mono"
        stream = output.add_stream(
            codec, rate=_RATES.get(codec, rate), layout=layout, options={"strict": "experimental"}
        )
        assert isinstance(stream, av.AudioStream)
        if codec in ("wavpack", "tta"):  # their first choice are 8 bits
            stream.codec_context.format = "s16p" if codec == "wavpack" else "s16"
        if codec == "wmav2":
            stream.codec_context.bit_rate = 64_000
        frame = av.AudioFrame(format="s16", layout="mono", samples=len(pcm) // 2)
        frame.planes[0].update(pcm)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        wanted = stream.codec_context
        size = wanted.frame_size or 1024
        resampler = av.AudioResampler(wanted.format, layout, wanted.sample_rate, size)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return file.getvalue()


def raw_samples(pcm: bytes, codec: str, rate: int) -> bytes:
    """Return the samples (16 bits, mono, 16 kHz) as `codec` ("s16le", "mulaw" or "alaw") at that
    rate."""
    file = io.BytesIO()
    with av.open(file, "w", format=codec) as output:
        stream = output.add_stream(f"pcm_{codec}", rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame(format="s16", layout="mono", samples=len(pcm) // 2)
        frame.planes[0].update(pcm)
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        resampler = av.AudioResampler("s16", "mono", rate)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return file.getvalue()
