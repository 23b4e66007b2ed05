"""Features of a Vosk model: the settings with which it is served, and its sample rate."""

from pathlib import Path

from models.vosk.layout import features_file

_SERVED = {"--dither": b"0", "--allow-upsample": b"true", "--allow-downsample": b"true"}
"""Settings of a served model's features (Kaldi: feature-window and online-feature options). Dither
is noise that Kaldi adds to every sample, different in each run: without it, the same audio gives
the same text. Streams may have another rate than the model, in either direction."""

_DEFAULT_RATE = 16_000
_RATES = range(4_000, 96_001)
"""Samples per second: Kaldi's default, and the range for models."""


def served_features(model: Path) -> dict[str, bytes]:
    """Return the replacement for the model's feature settings: no dither, and streams of any rate.

    Empty where the model has no such file. Raises `OSError`.
    """
    inside = features_file(model)
    try:
        lines = (model / inside).read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    own = tuple(name.encode() for name in _SERVED)
    kept = [line for line in lines if not line.strip().startswith(own)]
    served = [name.encode() + b"=" + value for name, value in _SERVED.items()]
    return {inside: b"\n".join([*kept, *served, b""])}


def sample_rate_of(model: Path) -> int:
    """Return the samples per second that the model in a directory was trained on; Kaldi's default
    is 16,000."""
    try:
        lines = (model / features_file(model)).read_text(encoding="latin-1").splitlines()
    except OSError:
        return _DEFAULT_RATE
    rate = _DEFAULT_RATE
    for line in lines:
        name, _, value = line.split("#")[0].strip().partition("=")
        if name.strip() == "--sample-frequency":
            try:
                rate = int(float(value))
            except (ValueError, OverflowError):
                continue  # the engine refuses it
    return rate if rate in _RATES else _DEFAULT_RATE
