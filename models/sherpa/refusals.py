"""Reasons why a directory is not a model for sherpa-onnx, and what to use instead."""

from collections.abc import Callable, Mapping
from pathlib import Path

from models.sherpa.files import is_network, names_in
from models.sherpa.kinds import supported_types

RELEASES = "https://github.com/k2-fsa/sherpa-onnx/releases/tag/asr-models"


class NotRecognised(Exception):
    """Directory without a model that sherpa-onnx can load; the text says why, and what it could
    load instead."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason.encode("utf-8", "replace").decode())  # names of files are bytes


def problem_in(directory: Path, recognise: Callable[[Path], object]) -> str | None:
    """Return why `recognise` finds no model in the directory, in words; None if it finds one."""
    try:
        recognise(directory)
    except NotRecognised as refused:
        return str(refused)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    return None


def unknown_type(file: Path, metadata: Mapping[str, str]) -> NotRecognised:
    """Refuse a network by its metadata."""
    model_type = metadata.get("model_type")
    says = (
        f"{file.name} is of the type {model_type[:60]!r}"
        if model_type
        else f"the metadata of {file.name} does not say what it is (model_type)"
    )
    return NotRecognised(
        f"{says}; models as sherpa-onnx releases them are supported ({RELEASES}), of the types "
        f"{supported_types()}"
    )


def funasr_export() -> NotRecognised:
    """Refuse an export by FunASR itself, whose features and tokens are in files of another form."""
    return NotRecognised(
        "it is FunASR's own export (am.mvn); use the release of the same model for sherpa-onnx, "
        "named sherpa-onnx-sense-voice-... or sherpa-onnx-paraformer-..., which has tokens.txt "
        f"and its features as metadata: {RELEASES}"
    )


def punctuation_instead(file: Path) -> NotRecognised:
    """Refuse a punctuation model, which recognises no speech."""
    return NotRecognised(
        f"{file.name} is a punctuation model, which recognises no speech: name it in "
        'text.punctuation_model, and set text.steps = ["punctuation"]'
    )


_FOREIGN = {
    ".pt": "PyTorch",
    ".pth": "PyTorch",
    ".ckpt": "PyTorch",
    ".bin": "PyTorch, CTranslate2 or whisper.cpp",
    ".safetensors": "PyTorch (safetensors)",
    ".gguf": "llama.cpp or whisper.cpp",
    ".nemo": "NeMo",
    ".rknn": "Rockchip's processors",
    ".om": "Huawei's processors",
    ".tflite": "TensorFlow Lite",
    ".param": "ncnn",
    ".mlmodelc": "Core ML",
}


def why_no_network(directory: Path) -> str:
    """Describe what is there instead of a network for ONNX Runtime."""
    names = names_in(directory)
    for name in names:
        if (maker := _FOREIGN.get(Path(name).suffix)) is not None:
            return (
                f"{name} is a model for {maker}; ONNX models as sherpa-onnx releases them are "
                f"supported: {RELEASES}"
            )
    for name in names:
        inside = directory / name
        if inside.is_dir() and any(is_network(inner) for inner in names_in(inside)):
            return f"no network (.onnx) is in it, but there is one in its directory {name}"
    return "no network (.onnx) is in it"
